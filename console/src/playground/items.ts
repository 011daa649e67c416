// What the visitor says, as items, and which calls wait for their answer.
import type { Json, JsonObject } from "../lib/api";
import type { Item } from "../lib/fold";
import { parts, pretty } from "../lib/items";
import { read, written } from "../lib/json";

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
export const COMPUTER = "computer_call";

/** Of calls whose output is more than a text: what stands in it where all went well and nothing was printed. */
const WELL: Record<string, (call: Item) => JsonObject> = {
  shell_call: ({ action }) => ({ output: (action as { commands: Json[] }).commands.map(() => ({ stdout: "", stderr: "", outcome: { type: "exit", exit_code: 0 } })) }),
  local_shell_call: () => ({ output: "" }),
  apply_patch_call: () => ({ status: "completed", output: "" }),
  [COMPUTER]: (call) => ({ output: { type: "computer_screenshot", image_url: "data:image/png;base64," }, ...(parts(call, "pending_safety_checks").length && { acknowledged_safety_checks: call["pending_safety_checks"]! }) }),
  tool_search_call: () => ({ execution: "client", tools: [] }),
};

/** Whether a call is answered by an item that is written as JSON. */
export function isJsonAnswered(call: Item): boolean {
  return call.type in WELL;
}

/** The item that answers such a call, as far as it is known; what is short and holds nothing further stands in one line. */
export function prepared(call: Item): string {
  const type = call.type === "tool_search_call" ? "tool_search_output" : `${call.type}_output`;
  const text = written({ type, call_id: call["call_id"], ...WELL[call.type]!(call) });
  return text.replace(/\{\n[^{}]{1,90}\}/g, (inner) => inner.replace(/\s*\n\s*/g, " "));
}

/** The calls that the client answers, and has not. */
export function open(output: Item[]): Item[] {
  const answered = new Set(output.flatMap((item) => (item.type.endsWith("_output") ? [item["call_id"]] : [])));
  const isAsked = (item: Item) => item.type in OUTPUTS || (item.type in WELL && item["execution"] !== "server");
  return output.filter((item) => item.type === APPROVAL || (isAsked(item) && !answered.has(item["call_id"])));
}

/** The item that answers an open call: with a text, as JSON, or whether it is approved. */
export function answer(call: Item, said: string | boolean): Item {
  if (call.type === APPROVAL) return { type: "mcp_approval_response", approval_request_id: call["id"]!, approve: said === true };
  if (isJsonAnswered(call)) return read(String(said)).value as Item;
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
