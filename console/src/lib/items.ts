// Items, told in words: of a response's input or output.
import type { Json, JsonObject } from "./api";
import type { Item } from "./fold";

/** The entries of a list in an item; none where it has none. */
export function parts(item: JsonObject, list: string): JsonObject[] {
  const found = item[list];
  return Array.isArray(found) ? (found as JsonObject[]) : [];
}

export function isCall(item: Item): boolean {
  return /_call$|^(mcp_approval_request|mcp_list_tools)$/.test(item.type);
}

export function isOutput(item: Item): boolean {
  return /_output$|^mcp_approval_response$/.test(item.type);
}

const GIVEN = ["arguments", "input", "code", "action", "actions", "operation", "queries", "query", "server_label"];
const GIVEN_BACK = ["output", "outputs", "results", "result", "tools", "error"];

/** What a call was given. */
export function given(item: Item): string {
  return first(item, GIVEN);
}

/** What came of a call, from the call itself or from the item with its output. */
export function givenBack(item: Item): string {
  if (item.type === "mcp_approval_response") return [item["approve"] ? "approved" : "denied", item["reason"]].filter(Boolean).join(": ");
  return first(item, GIVEN_BACK);
}

function first(item: Item, names: string[]): string {
  const name = names.find((one) => item[one] !== undefined && item[one] !== null && item[one] !== "");
  return name ? pretty(item[name]!) : "";
}

/** JSON in lines, also where it is in a string; text as it is; content parts as their text. */
export function pretty(value: Json): string {
  if (typeof value === "string") {
    try {
      const read = JSON.parse(value) as Json;
      return read !== null && typeof read === "object" ? JSON.stringify(read, null, 2) : value;
    } catch {
      return value;
    }
  }
  const texts = Array.isArray(value) ? (value as (JsonObject | null)[]).map((part) => part?.["type"] && part["text"]) : [];
  if (texts.length && texts.every((text) => typeof text === "string")) return texts.join("\n");
  return JSON.stringify(value, null, 2);
}

/** An item in one line. */
export function brief(item: Item): string {
  if (isCall(item)) return `${item["name"] ?? item.type}(${given(item)})`.replace(/\s+/g, " ");
  if (isOutput(item)) return `→ ${givenBack(item)}`.replace(/\s+/g, " ");
  if (typeof item["content"] === "string") return item["content"];
  const texts = [...parts(item, "summary"), ...parts(item, "content")].map((part) => part["text"] ?? part["refusal"] ?? `[${String(part["type"]).replace(/^input_/, "")}]`);
  return texts.join(" ") || item.type;
}
