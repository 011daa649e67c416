// What the visitor says, as items, and which calls wait for their answer.
import type { Json, JsonObject } from "../lib/api";
import type { Item } from "../lib/fold";
import { parts, pretty } from "../lib/items";
import { read } from "../lib/json";

const LINE_CHARS_MAX = 72;

/** A value as it is read best: JSON, also where it is in a string, in one line where it is short. */
export function shown(value: Json): string {
  const text = pretty(value);
  const line = text.replace(/(?<=[[{])\n *|\n *(?=[\]}])/g, "").replace(/\n */g, " "); // within its strings no line ends
  const isJson = /^[[{]/.test(text) && read(text).fault === null;
  return isJson && line.length <= LINE_CHARS_MAX ? line : text;
}

const OUTPUTS: Record<string, string> = { function_call: "function_call_output", custom_tool_call: "custom_tool_call_output" };
export const APPROVAL = "mcp_approval_request";

/** The calls that the client answers, and has not. */
export function open(output: Item[]): Item[] {
  const answered = new Set(output.flatMap((item) => (item.type.endsWith("_output") ? [item["call_id"]] : [])));
  return output.filter((item) => item.type === APPROVAL || (item.type in OUTPUTS && !answered.has(item["call_id"])));
}

/** The item that answers an open call: with a text, or whether it is approved. */
export function answer(call: Item, said: string | boolean): Item {
  if (call.type === APPROVAL) return { type: "mcp_approval_response", approval_request_id: call["id"]!, approve: said === true };
  return { type: OUTPUTS[call.type]!, call_id: call["call_id"]!, output: String(said) };
}

export type Attached = { name: string; url: string; isImage: boolean };

export function message(text: string, attached: Attached[]): Item {
  const files = attached.map(({ name, url, isImage }): JsonObject => (isImage ? { type: "input_image", image_url: url } : { type: "input_file", filename: name, file_data: url }));
  return { type: "message", role: "user", content: [...files, ...(text.trim() ? [{ type: "input_text", text }] : [])] };
}

/** What a message of the visitor says, as `message` takes it. */
export function contents(item: Item): [text: string, attached: Attached[]] {
  const all = parts(item, "content");
  const files = all.filter((part) => part["image_url"] ?? part["file_data"]);
  return [all.map((part) => part["text"] ?? "").join(""), files.map((part) => ({ name: String(part["filename"] ?? "Picture"), url: String(part["image_url"] ?? part["file_data"]), isImage: "image_url" in part }))];
}

export function attach(file: File): Promise<Attached> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ name: file.name, url: String(reader.result), isImage: file.type.startsWith("image/") });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
