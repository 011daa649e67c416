// Server-sent events of a stream: each with the time when it came. Stopped through the signal of its request.
import type { JsonObject } from "./api";

export type StreamEvent = JsonObject & { type: string; sequence_number?: number };
export type Arrived = { event: StreamEvent; atMs: number; bytes: number };

/** The events as they come, those of one network read together; ends at `[DONE]`. `atMs`: since `startedMs`. */
export async function* arrivals(response: Response, startedMs: number): AsyncGenerator<Arrived[]> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const atMs = performance.now() - startedMs;
      const frames = (rest + value.replaceAll("\r", "")).split("\n\n");
      rest = frames.pop()!;
      const events: Arrived[] = [];
      for (const frame of frames) {
        const data = dataOf(frame);
        if (data === "[DONE]") {
          if (events.length) yield events;
          return;
        }
        if (data) events.push({ event: JSON.parse(data), atMs, bytes: frame.length });
      }
      if (events.length) yield events;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

function dataOf(frame: string): string {
  const lines = frame.split("\n").filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}
