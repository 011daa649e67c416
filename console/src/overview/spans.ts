// What the overview shows: how far back, in which steps, and how the API's points become lines.
import { get } from "../lib/api";

export type Quantiles = { p50: number | null; p95: number | null };
export type Point = {
  start: number;
  model: string | null;
  requests: number;
  endings: Record<string, number>;
  errors: Record<string, number>;
  input_tokens: number;
  cached_tokens: number;
  output_tokens: number;
  reasoning_tokens: number;
  duration_ms: Quantiles;
  first_token_ms: Quantiles;
  running_max: number;
  waiting_max: number;
};
export type Span = { id: string; title: string; seconds: number; step: number; everyMs: number };
/** `whole`: all of the span as one step, altogether and by model. */
export type Seen = { span: Span; since: number; until: number; points: Point[]; whole: Point[] };

const HOUR = 3600;
export const SPANS: Span[] = [
  { id: "1h", title: "1 hour", seconds: HOUR, step: 60, everyMs: 5_000 },
  { id: "6h", title: "6 hours", seconds: 6 * HOUR, step: 300, everyMs: 5_000 },
  { id: "24h", title: "24 hours", seconds: 24 * HOUR, step: 1200, everyMs: 5_000 },
  { id: "7d", title: "7 days", seconds: 7 * 24 * HOUR, step: 2 * HOUR, everyMs: 30_000 },
];
export const UNKNOWN = "unknown model";

export async function look(span: Span, signal: AbortSignal): Promise<Seen> {
  const until = (Math.floor(Date.now() / 1000 / span.step) + 1) * span.step;
  const since = until - span.seconds;
  const ask = async (step: number) => (await get<{ points: Point[] }>(`/antiphon/overview?since=${since}&until=${until}&step=${step}`, { signal })).points;
  const [points, whole] = await Promise.all([ask(span.step), ask(span.seconds)]);
  return { span, since, until, points, whole };
}

export function nameOf(point: Point): string {
  return point.model || UNKNOWN;
}

/** One line of a chart: a value for each step. */
export type Line = { label: string; colour: string; values: (number | null)[]; isDashed?: boolean };

export class Steps {
  readonly starts: number[];
  #at: Map<string, Point>;

  constructor(readonly seen: Seen) {
    const { since, until, span } = seen;
    this.starts = Array.from({ length: Math.ceil((until - since) / span.step) }, (_, at) => since + at * span.step);
    this.#at = new Map(seen.points.map((point) => [`${point.start} ${point.model ?? "*"}`, point]));
  }

  /** Of a model, or altogether. Where nothing happened: `none`. */
  values(model: string | null, read: (point: Point) => number | null, none: number | null): (number | null)[] {
    return this.starts.map((start) => {
      const point = this.#at.get(`${start} ${model ?? "*"}`);
      return point ? read(point) : none;
    });
  }
}

const COLOURS = ["c1", "c2", "c3", "c4", "c5", "c6"];
const LINES_MAX = COLOURS.length;

/** Kinds with their totals, the greatest first, in lines; what is beyond the colours is one line, the last. */
export function byKind(totals: [kind: string, total: number][], values: (kind: string) => (number | null)[]): Line[] {
  const sorted = totals.filter(([, total]) => total > 0).sort((a, b) => b[1] - a[1]);
  const shown = sorted.length > LINES_MAX ? sorted.slice(0, LINES_MAX - 1) : sorted;
  const lines: Line[] = shown.map(([kind], at) => ({ label: kind, colour: COLOURS[at]!, values: values(kind) }));
  const rest = sorted.slice(shown.length).map(([kind]) => values(kind));
  if (rest.length) lines.push({ label: `${rest.length} others`, colour: "c0", values: rest[0]!.map((_, at) => rest.reduce((sum, one) => sum + (one[at] ?? 0), 0)) });
  return lines;
}
