// Fold: what the events of a response add up to, as far as they have come. What is changed is copied, never written over,
// so that whoever shows a part sees by its identity whether it changed.
import type { Json, JsonObject } from "./api";
import type { StreamEvent } from "./sse";

export type Item = JsonObject & { type: string; status?: string };
export type Folded = JsonObject & { id: string; status: string; output: Item[] };

// Where a delta goes: the list in its item, the index into that, and the field that grows.
const IN_ITEM = ["", ""] as const;
const IN_CONTENT = ["content", "content_index"] as const;
const IN_SUMMARY = ["summary", "summary_index"] as const;
const GROWING: Record<string, readonly [list: string, index: string, field: string]> = {
  "response.output_text.delta": [...IN_CONTENT, "text"],
  "response.refusal.delta": [...IN_CONTENT, "refusal"],
  "response.reasoning_text.delta": [...IN_CONTENT, "text"],
  "response.reasoning.delta": [...IN_CONTENT, "text"],
  "response.reasoning_summary_text.delta": [...IN_SUMMARY, "text"],
  "response.function_call_arguments.delta": [...IN_ITEM, "arguments"],
  "response.mcp_call_arguments.delta": [...IN_ITEM, "arguments"],
  "response.custom_tool_call_input.delta": [...IN_ITEM, "input"],
  "response.code_interpreter_call_code.delta": [...IN_ITEM, "code"],
};
const PARTS: Record<string, readonly [list: string, index: string]> = {
  "response.content_part.added": IN_CONTENT,
  "response.reasoning_summary_part.added": IN_SUMMARY,
};

/** The response after one more event. An event of an unknown kind changes nothing. */
export function fold(before: Folded | null, event: StreamEvent): Folded | null {
  if (event.response) return snapshot(before, event.response as Folded);
  if (!before) return null;
  const at = event.output_index as number | undefined;
  if (at === undefined) return before;
  if (event.type.startsWith("response.output_item.")) return withItem(before, at, event.item as Item);
  const item = before.output[at];
  const changed = item && changedBy(item, event);
  return changed ? withItem(before, at, changed) : before;
}

function snapshot(before: Folded | null, given: Folded): Folded {
  const isBehind = before && given.output.length < before.output.length;
  return isBehind ? { ...given, output: before.output } : given;
}

function withItem(folded: Folded, at: number, item: Item): Folded {
  const output = [...folded.output];
  output[at] = item;
  return { ...folded, output };
}

function changedBy(item: Item, event: StreamEvent): Item | undefined {
  const growing = GROWING[event.type];
  if (growing) {
    const [list, index, field] = growing;
    const grow = (part: JsonObject) => ({ ...part, [field]: String(part[field] ?? "") + String(event.delta) });
    return list ? withPart(item, list, event[index] as number, grow) : (grow(item) as Item);
  }
  const part = PARTS[event.type];
  if (part) return withPart(item, part[0], event[part[1]] as number, () => event.part as JsonObject);
  if (event.type === "response.output_text.annotation.added") {
    const add = (one: JsonObject) => ({ ...one, annotations: [...((one.annotations as Json[]) ?? []), event.annotation ?? null] });
    return withPart(item, "content", event.content_index as number, add);
  }
  const status = event.type.startsWith(`response.${item.type}.`) && event.type.slice(`response.${item.type}.`.length);
  return status ? { ...item, status } : undefined;
}

function withPart(item: Item, list: string, index: number, change: (part: JsonObject) => JsonObject): Item {
  const parts = [...((item[list] as JsonObject[] | null) ?? [])];
  parts[index] = change(parts[index] ?? {});
  return { ...item, [list]: parts };
}
