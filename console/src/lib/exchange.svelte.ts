// Exchange: one request that was sent, and all that came back, as it comes.
import { ask, type Asked, type Json, type JsonObject } from "./api";
import { fold, type Folded } from "./fold";
import { arrivals, type Arrived } from "./sse";

export type Phase = "asking" | "streaming" | "done" | "stopped" | "broken";

export class Exchange {
  phase: Phase = $state("asking");
  status = $state(0);
  headers: [string, string][] = $state.raw([]);
  firstMs: number | null = $state(null);
  totalMs: number | null = $state(null);
  bytes = $state(0);
  fault = $state("");
  isStream = $state(false);
  text = $state("");
  value: Json | undefined = $state.raw(undefined);
  /** Grows in place, since 10,000 events are not copied for each new one: `count` says how many there are. */
  readonly events: Arrived[] = [];
  count = $state(0);
  folded: Folded | null = $state.raw(null);
  #folded: Folded | null = null;
  #frame = 0;
  #stop = new AbortController();
  #startedMs = 0;

  constructor(
    readonly path: string,
    readonly asked: Asked,
  ) {}

  get id(): string {
    const id = this.folded?.id ?? (this.value as JsonObject | undefined)?.["id"];
    return typeof id === "string" ? id : "";
  }

  get isRunning(): boolean {
    return this.phase === "asking" || this.phase === "streaming";
  }

  /** Whether its stream can be read again, from any event on. */
  get isResumable(): boolean {
    return this.isStream && this.folded?.["background"] === true && this.folded["store"] !== false;
  }

  get lastNumber(): number {
    return this.events[this.count - 1]?.event.sequence_number ?? -1;
  }

  stop(): void {
    this.#stop.abort();
  }

  run(): Promise<void> {
    return this.#run(this.path, this.asked);
  }

  /** Reads the stream of a background response again: what comes after event `number`; -1 is all. */
  resume(number: number): Promise<void> {
    const kept = this.events.findIndex(({ event }) => (event.sequence_number ?? -1) > number);
    if (kept >= 0) this.events.length = kept;
    this.#folded = this.events.reduce<Folded | null>((before, { event }) => fold(before, event), null);
    const wire = /^(\/openresponses)?\/v1/.exec(this.path)?.[0] ?? "/v1";
    const after = number >= 0 ? `&starting_after=${number}` : "";
    const id = encodeURIComponent(this.id);
    this.#show();
    return this.#run(`${wire}/responses/${id}?stream=true${after}`, {});
  }

  async #run(path: string, asked: Asked): Promise<void> {
    this.phase = "asking";
    this.fault = "";
    this.firstMs = this.totalMs = null;
    this.#stop = new AbortController();
    this.#startedMs = performance.now();
    try {
      const response = await ask(path, { ...asked, signal: this.#stop.signal });
      this.status = response.status;
      this.headers = [...response.headers];
      this.firstMs = performance.now() - this.#startedMs;
      this.isStream = (response.headers.get("content-type") ?? "").startsWith("text/event-stream");
      await (this.isStream ? this.#stream(response) : this.#whole(response));
      this.phase = "done";
    } catch (error) {
      this.phase = this.#stop.signal.aborted ? "stopped" : "broken";
      if (this.phase === "broken") this.fault = error instanceof TypeError ? "The connection broke." : (error as Error).message;
    }
    this.totalMs = performance.now() - this.#startedMs;
    this.#show();
  }

  async #whole(response: Response): Promise<void> {
    const body = await response.blob();
    this.bytes = body.size;
    const isText = /json|text/.test(body.type) || body.size === 0;
    this.text = isText ? await body.text() : `${body.size} bytes of ${body.type}`;
    try {
      this.value = JSON.parse(this.text) as Json;
    } catch {
      this.value = undefined;
    }
  }

  async #stream(response: Response): Promise<void> {
    this.phase = "streaming";
    const before = this.events[this.events.length - 1]?.atMs ?? 0;
    for await (const batch of arrivals(response, this.#startedMs - before)) {
      for (const arrived of batch) {
        this.events.push(arrived);
        this.#folded = fold(this.#folded, arrived.event);
        this.bytes += arrived.bytes;
      }
      this.#frame ||= requestAnimationFrame(() => this.#show());
    }
  }

  /** Once a frame at most: what comes in between is shown together. */
  #show(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.count = this.events.length;
    this.folded = this.#folded;
  }
}
