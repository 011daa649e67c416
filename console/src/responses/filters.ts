// Which responses are wanted, as the address has it: every filter stands there, so that it can be shared, and "back" works.
import { address } from "../lib/route.svelte";

export const STATUSES = ["completed", "in_progress", "queued", "incomplete", "failed", "cancelled"];
export const PERIODS: [seconds: number, title: string][] = [
  [3_600, "Last hour"],
  [86_400, "Last 24 hours"],
  [7 * 86_400, "Last 7 days"],
  [30 * 86_400, "Last 30 days"],
];

export type Filters = {
  status: string;
  model: string;
  /** What they go on from: the id of a response. */
  parent: string;
  /** The last so many seconds; 0: of any time, or between `from` and `to`, in Unix seconds, "" where that is open. */
  last: number;
  from: string;
  to: string;
  labels: [key: string, value: string][];
};
export const NONE: Filters = { status: "", model: "", parent: "", last: 0, from: "", to: "", labels: [] };

export function read(query: string): Filters {
  const given = new URLSearchParams(query);
  const labels = [...given].flatMap(([name, value]): [string, string][] => {
    const key = /^metadata\[(.+)\]$/s.exec(name)?.[1];
    return key ? [[key, value]] : [];
  });
  const text = (name: string) => given.get(name) ?? "";
  return { status: text("status"), model: text("model"), parent: text("previous_response_id"), last: Number(text("last")) || 0, from: text("created_after"), to: text("created_before"), labels };
}

/** As in the address. */
function written(filters: Filters): string {
  const query = new URLSearchParams(common(filters));
  if (filters.last) query.append("last", String(filters.last));
  return query.toString();
}

/** As the API is asked. */
export function asked(filters: Filters): URLSearchParams {
  const query = new URLSearchParams(common(filters));
  if (filters.last) query.append("created_after", String(Math.floor(Date.now() / 1000) - filters.last));
  return query;
}

function common({ status, model, parent, from, to, labels }: Filters): string[][] {
  const plain = Object.entries({ status, model, previous_response_id: parent, created_after: from, created_before: to }).filter(([, value]) => value);
  return [...plain, ...labels.map(([key, value]) => [`metadata[${key}]`, value])];
}

export function addressOf(filters: Filters, id = ""): string {
  const query = written(filters);
  return address("responses", ...(id ? [id] : [])) + (query && `?${query}`);
}

export function withLabel(filters: Filters, key: string, value: string): Filters {
  return { ...filters, labels: [...filters.labels.filter(([one]) => one !== key), [key, value]] };
}
