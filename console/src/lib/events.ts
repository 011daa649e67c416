// Events, told shortly.
import type { JsonObject } from "../lib/api";
import type { StreamEvent } from "../lib/sse";

export const FAMILIES = ["delta", "item", "whole", "tool"] as const;
export type Family = (typeof FAMILIES)[number];

export function familyOf(type: string): Family {
  if (type.endsWith(".delta")) return "delta";
  if (/^response\.(created|queued|in_progress|completed|incomplete|failed|cancelled)$|^error$/.test(type)) return "whole";
  return /_call\.|compaction\.|mcp_|_list_tools\./.test(type) ? "tool" : "item";
}

const SHOWN_CHARS_MAX = 120;

export function previewOf(event: StreamEvent): string {
  const item = event.item as JsonObject | undefined;
  const part = event.part as JsonObject | undefined;
  const response = event.response as JsonObject | undefined;
  const told = event.delta ?? event.text ?? event.arguments ?? event.input ?? item?.["type"] ?? part?.["type"] ?? response?.["status"] ?? event.message ?? "";
  return (typeof told === "string" ? told : JSON.stringify(told)).slice(0, SHOWN_CHARS_MAX).replace(/\n/g, "⏎");
}
