// How well a text answers a query: 0 is not at all.

export function score(query: string, text: string): number {
  const wanted = query.toLowerCase();
  const found = text.toLowerCase();
  if (found === wanted) return 100;
  const at = found.indexOf(wanted);
  if (at === 0) return 80 - Math.min(found.length - wanted.length, 40) / 2;
  if (at > 0) return (/[\w]/.test(found[at - 1]!) ? 30 : 55) - Math.min(found.length - wanted.length, 40) / 4;
  const words = wanted.split(/[\s./_]+/).filter(Boolean);
  if (words.length > 1 && words.every((word) => found.includes(word))) return 28;
  return 0;
}

/** The best answers first; those that answer equally stay in their order. */
export function found<T>(query: string, all: T[], texts: (one: T) => [string, number][], most: number): T[] {
  const scored = all.map((one) => ({ one, points: Math.max(...texts(one).map(([text, weight]) => score(query, text) * weight)) }));
  return scored
    .filter(({ points }) => points > 0)
    .sort((a, b) => b.points - a.points)
    .slice(0, most)
    .map(({ one }) => one);
}
