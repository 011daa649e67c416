// Items one by one: what of each is shown.
import type { JsonObject } from "../lib/api";
import type { Item } from "../lib/fold";
import { given, givenBack, parts } from "../lib/items";

export type Held = Item & { id: string };
/** What of a part is shown: its text, the picture where it is at hand, or what it names. */
export type Shown = { text?: string; picture?: string; name?: string };

export function shown(item: Item): Shown[] {
  const all = [...parts(item, "summary"), ...parts(item, "content")];
  if (all.length) return all.map(partOf);
  return [given(item), givenBack(item)].filter(Boolean).map((text) => ({ text }));
}

function partOf(part: JsonObject): Shown {
  const text = part["text"] ?? part["refusal"];
  if (typeof text === "string") return { text };
  const url = part["image_url"];
  if (typeof url === "string" && url.startsWith("data:image/")) return { picture: url };
  return { name: String(part["filename"] ?? part["file_id"] ?? url ?? part["file_url"] ?? part["type"]) };
}

export function titleOf(item: Item): string {
  return String(item.type === "message" ? item["role"] : (item["name"] ?? item.type));
}
