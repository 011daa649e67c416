// Items, told shortly.
import type { JsonObject } from "../lib/api";

export type Item = JsonObject & { id: string; type: string };
/** What of a part is shown: its text, the picture where it is at hand, or what it names. */
export type Shown = { text?: string; picture?: string; name?: string };

const parts = (item: Item, list: string) => (item[list] as JsonObject[] | null | undefined) ?? [];

export function shown(item: Item): Shown[] {
  if (item.type === "message") return parts(item, "content").map(partOf);
  if (item.type === "reasoning") return [...parts(item, "summary"), ...parts(item, "content")].map(partOf);
  return ["arguments", "input", "code", "action", "query", "output", "result"].filter((name) => item[name] !== undefined && item[name] !== null).map((name) => ({ text: told(item[name]) }));
}

function partOf(part: JsonObject): Shown {
  const text = part["text"] ?? part["refusal"];
  if (typeof text === "string") return { text };
  const url = part["image_url"];
  if (typeof url === "string" && url.startsWith("data:image/")) return { picture: url };
  return { name: String(part["filename"] ?? part["file_id"] ?? url ?? part["file_url"] ?? part["type"]) };
}

function told(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

export function titleOf(item: Item): string {
  return String(item.type === "message" ? item["role"] : item["name"] ?? item.type);
}
