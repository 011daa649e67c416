// A stored response, as the API gives it, and as a row of a list.
import { get, type JsonObject } from "../lib/api";
import type { Folded, Item } from "../lib/fold";
import { brief, isCall } from "../lib/items";

export type Stored = Folded & { created_at: number; completed_at: number | null; model: string; background: boolean; previous_response_id: string | null; metadata: Record<string, string>; usage: JsonObject | null; error: { code: string; message: string } | null };
export type Page<T> = { data: T[]; has_more: boolean; last_id: string | null };
export type Row = { id: string; at: number; status: string; model: string; text: string; tokens: number | null; seconds: number | null; labels: [string, string][]; parent: string | null };

const TEXT_CHARS_MAX = 240;

export function pathOf(id: string): string {
  return `/v1/responses/${encodeURIComponent(id)}`;
}

export function isUnfinished(status: string): boolean {
  return status === "queued" || status === "in_progress";
}

export function rowOf(response: Stored): Row {
  return {
    id: response.id,
    at: response.created_at,
    status: response.status,
    model: response.model,
    text: outputText(response).slice(0, TEXT_CHARS_MAX),
    tokens: (response.usage?.["total_tokens"] as number | undefined) ?? null,
    seconds: response.completed_at === null ? null : response.completed_at - response.created_at,
    labels: Object.entries(response.metadata),
    parent: response.previous_response_id,
  };
}

function outputText({ output, error }: Stored): string {
  const last = output.findLast((item) => item.type === "message") ?? output.findLast(isCall) ?? output.at(-1);
  return error?.message ?? (last ? brief(last) : "");
}

/** The id of the last item that a response left, which divides what it found from what the next one was given; "" where that
 * is not to be known. */
export async function lastOf(id: string | null, signal: AbortSignal): Promise<string> {
  if (!id) return "";
  try {
    const { output } = await get<Stored>(pathOf(id), { signal });
    const last = output.at(-1) ?? (await get<Page<Item>>(`${pathOf(id)}/input_items?limit=1&order=desc`, { signal })).data[0];
    return String(last?.["id"] ?? "");
  } catch {
    return "";
  }
}

/** The beginning of what came last into it: the input of its own request. */
export async function inputText(id: string, signal: AbortSignal): Promise<string> {
  const { data } = await get<Page<Item>>(`${pathOf(id)}/input_items?limit=1&order=desc`, { signal });
  return data[0] ? brief(data[0]).slice(0, TEXT_CHARS_MAX) : "";
}

export const LOOKS: Record<string, string> = { completed: "good", failed: "bad", incomplete: "warn", cancelled: "", queued: "accent", in_progress: "accent" };

const DAY_MS = 86_400_000;
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" } as Intl.DateTimeFormatOptions);

/** The time of day, and of other days the date too. */
export function clock(seconds: number): string {
  const date = new Date(seconds * 1000);
  const isToday = new Date().toDateString() === date.toDateString();
  const isNear = Date.now() - date.getTime() < 300 * DAY_MS;
  return isToday ? CLOCK.format(date) : `${DATE.format(date)}${isNear ? "" : ` ${date.getFullYear()}`}, ${CLOCK.format(date).slice(0, 5)}`;
}

export function wholeTime(seconds: number): string {
  return WHOLE.format(new Date(seconds * 1000));
}

/** A duration that is known to the second. */
export function lasted(seconds: number): string {
  if (seconds < 1) return "< 1 s";
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s` : `${(seconds / 3600).toFixed(1)} h`;
}

export function counted(number: number): string {
  return number.toLocaleString("en").replaceAll(",", "\u2009");
}
