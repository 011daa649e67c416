// What the browser keeps for this page. A browser that keeps nothing is no error: then it is asked for again.

export function kept(name: string): string | null {
  try {
    return localStorage.getItem(`antiphon.${name}`);
  } catch {
    return null;
  }
}

export function keep(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(`antiphon.${name}`);
    else localStorage.setItem(`antiphon.${name}`, value);
  } catch {
    // private windows may refuse
  }
}
