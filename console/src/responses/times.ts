// Times: when the events of a background response were written. Those that came from a version of the server that kept no
// times are spread evenly between the others.
import { get } from "../lib/api";
import type { Arrived } from "../lib/sse";
import type { Stored } from "./stored";

/** The number of an event, and when it was written, with those behind it up to the next pair's. */
export type Written = [number: number, ms: number | null];

const SPAN_MS_MIN = 1_000;

export async function timesOf(id: string, signal: AbortSignal): Promise<Written[]> {
  const times: Written[] = [];
  for (;;) {
    const after = times.at(-1)?.[0] ?? -1;
    const path = `/antiphon/responses/${encodeURIComponent(id)}/times?starting_after=${after}`;
    const page = await get<{ data: Written[]; has_more: boolean }>(path, { signal });
    times.push(...page.data);
    if (!page.has_more) return times;
  }
}

/** The events at their times since the beginning; and of how many those are not known. */
export function placed(events: Arrived[], times: Written[], { created_at, completed_at }: Stored): { events: Arrived[]; untimed: number } {
  const beginMs = times[0]?.[1] ?? created_at * 1000;
  const endMs = (completed_at ?? created_at) * 1000 - beginMs;
  const known = knownOf(events, times, beginMs);
  const atMs: number[] = [];
  while (atMs.length < events.length) {
    const first = atMs.length;
    let next = first;
    while (next < events.length && known[next] === null) next++;
    const [from, fromMs] = first ? [first - 1, atMs[first - 1]!] : [0, 0];
    const [to, toMs] = next < events.length ? [next, known[next]!] : [next - 1, Math.max(endMs, first ? fromMs : SPAN_MS_MIN)];
    while (atMs.length < next) atMs.push(fromMs + ((atMs.length - from) / Math.max(to - from, 1)) * (toMs - fromMs));
    if (next < events.length) atMs.push(toMs);
  }
  return { events: events.map((arrived, index) => ({ ...arrived, atMs: atMs[index]! })), untimed: known.filter((ms) => ms === null).length };
}

/** No event comes before the one before it, though the clocks of two servers may say so. */
function knownOf(events: Arrived[], times: Written[], beginMs: number): (number | null)[] {
  let pair = -1;
  let latest = 0;
  return events.map(({ event }, index) => {
    while (pair + 1 < times.length && times[pair + 1]![0] <= (event.sequence_number ?? index)) pair++;
    const ms = times[pair]?.[1] ?? null;
    return ms === null ? null : (latest = Math.max(latest, ms - beginMs));
  });
}
