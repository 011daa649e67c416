// Replay: the stream of a stored background response, read again, and played in its own time.
// The server keeps events without their times. Those that come while they are made have the times of their coming; those
// that were all there are spread evenly over the time that the response took.
import { ask, refused } from "../lib/api";
import { fold, type Folded } from "../lib/fold";
import { arrivals, type Arrived } from "../lib/sse";
import { isUnfinished, pathOf, type Stored } from "./stored";

const SPAN_MS_MIN = 1_000;

export class Replay {
  phase: "reading" | "read" | "refused" = $state("reading");
  /** Why there is no stream. */
  reason = $state("");
  /** Grows in place: `count` says how many are shown. */
  readonly events: Arrived[] = [];
  count = $state(0);
  folded: Folded | null = $state.raw(null);
  positionMs = $state(0);
  spanMs = $state(0);
  speed = $state(1);
  isPlaying = $state(false);
  readonly isLive: boolean;
  #frame = 0;
  #folded: Folded | null = null;
  #foldedCount = 0;
  readonly #stop = new AbortController();

  constructor(readonly response: Stored) {
    this.isLive = isUnfinished(response.status);
  }

  async read(): Promise<void> {
    try {
      if (!this.response.background) throw new Error("This response cannot be streamed because it was not created with background=true.");
      const answer = await ask(`${pathOf(this.response.id)}?stream=true`, { signal: this.#stop.signal });
      if (!answer.ok) throw await refused(answer);
      for await (const batch of arrivals(answer, performance.now())) {
        for (const arrived of batch) this.events.push(arrived);
        this.#frame ||= requestAnimationFrame(() => this.#showAll());
      }
      this.phase = "read";
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.reason = (error as Error).message;
      this.phase = this.events.length ? "read" : "refused";
    }
    if (!this.isLive) this.#spread();
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

  #spread(): void {
    const { created_at, completed_at } = this.response;
    const spanMs = Math.max(((completed_at ?? created_at) - created_at) * 1000, SPAN_MS_MIN);
    const last = Math.max(this.events.length - 1, 1);
    this.events.forEach((arrived, index) => (arrived.atMs = (index / last) * spanMs));
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
