// Replay: the stream of a stored background response, read again, and played in its own time.
// While it is being made, events have the times of their coming here; once it is over, those at which they were written.
import { ask, refused } from "../lib/api";
import { fold, type Folded } from "../lib/fold";
import { arrivals, type Arrived } from "../lib/sse";
import { isUnfinished, pathOf, type Stored } from "./stored";
import { placed, timesOf } from "./times";

export class Replay {
  phase: "reading" | "read" | "refused" = $state("reading");
  /** Why there is no stream. */
  reason = $state("");
  /** Grows in place: `count` says how many are shown. */
  events: Arrived[] = $state.raw([]);
  count = $state(0);
  folded: Folded | null = $state.raw(null);
  positionMs = $state(0);
  spanMs = $state(0);
  speed = $state(1);
  isPlaying = $state(false);
  /** Of how many events it is not known when they were written; null: all have the times of their coming here. */
  untimed: number | null = $state(null);
  #frame = 0;
  #folded: Folded | null = null;
  #foldedCount = 0;
  readonly #stop = new AbortController();

  constructor(readonly response: Stored) {}

  async read(): Promise<void> {
    try {
      if (!this.response.background) throw new Error("This response cannot be streamed because it was not created with background=true.");
      const answer = await ask(`${pathOf(this.response.id)}?stream=true`, { signal: this.#stop.signal });
      if (!answer.ok) throw await refused(answer);
      for await (const batch of arrivals(answer, performance.now())) {
        for (const arrived of batch) this.events.push(arrived);
        this.#frame ||= requestAnimationFrame(() => this.#showAll());
      }
      const times = await timesOf(this.response.id, this.#stop.signal);
      const isLive = isUnfinished(this.response.status);
      if (!isLive || times.every(([, ms]) => ms !== null)) ({ events: this.events, untimed: this.untimed } = placed(this.events, times, this.response));
      this.phase = "read";
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.reason = (error as Error).message;
      this.phase = this.events.length ? "read" : "refused";
    }
    this.#showAll();
  }

  close(): void {
    this.#stop.abort();
    cancelAnimationFrame(this.#frame);
  }

  play(): void {
    if (this.positionMs >= this.spanMs) this.seek(0);
    this.isPlaying = true;
    let beforeMs = performance.now();
    const step = (nowMs: number): void => {
      if (!this.isPlaying) return;
      this.seek(Math.min(this.positionMs + Math.max(0, nowMs - beforeMs) * this.speed, this.spanMs));
      beforeMs = nowMs;
      if (this.positionMs >= this.spanMs) this.isPlaying = false;
      else this.#frame = requestAnimationFrame(step);
    };
    this.#frame = requestAnimationFrame(step);
  }

  pause(): void {
    this.isPlaying = false;
    cancelAnimationFrame(this.#frame);
  }

  /** As it was so long after its beginning. */
  seek(ms: number): void {
    this.positionMs = ms;
    let next = this.events.findIndex(({ atMs }) => atMs > ms);
    if (next < 0) next = this.events.length;
    this.#show(next);
  }

  #showAll(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.spanMs = this.positionMs = this.events.at(-1)?.atMs ?? 0;
    this.#show(this.events.length);
  }

  #show(count: number): void {
    if (count < this.#foldedCount) [this.#folded, this.#foldedCount] = [null, 0];
    for (; this.#foldedCount < count; this.#foldedCount++) this.#folded = fold(this.#folded, this.events[this.#foldedCount]!.event);
    this.folded = this.#folded;
    this.count = count;
  }
}
