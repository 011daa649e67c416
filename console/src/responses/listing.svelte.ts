// Listing: the stored responses that pass some filters, newest first, as far as they were asked for; kept fresh.
import { SvelteMap } from "svelte/reactivity";
import { ApiError, get, isKeyless } from "../lib/api";
import { asked, type Filters } from "./filters";
import { inputText, isUnfinished, pathOf, rowOf, type Page, type Row, type Stored } from "./stored";

const PAGE = 100;
const NEWEST = 20;
const RENEW_EVERY_MS = 2_000;
const UNFINISHED_MAX = 8;
const SETTLED_MS = 120;

export class Listing {
  rows: Row[] = $state.raw([]);
  hasMore = $state(false);
  isLoading = $state(false);
  fault = $state("");
  /** How many there are that are newer than the first row, and not shown yet. */
  newer = $state(0);
  /** By id: the beginning of the input. Asked for when a row is looked at, for the list does not tell it. */
  readonly inputs = new SvelteMap<string, string>();
  readonly #stop = new AbortController();
  #settling = 0;
  #renewing = 0;

  constructor(readonly filters: Filters) {}

  async begin(): Promise<void> {
    await this.more();
    this.#renewLater();
  }

  close(): void {
    this.#stop.abort();
    clearTimeout(this.#settling);
    clearTimeout(this.#renewing);
  }

  /** The next page. */
  async more(): Promise<void> {
    if (this.isLoading || (this.rows.length && !this.hasMore)) return;
    this.isLoading = true;
    this.fault = "";
    try {
      const page = await this.#page(PAGE, this.rows.at(-1)?.id);
      this.rows = [...this.rows, ...page.data.map(rowOf)];
      this.hasMore = page.has_more;
    } catch (error) {
      if (!this.#stop.signal.aborted) this.fault = (error as Error).message;
    }
    this.isLoading = false;
  }

  /** All pages that are left. */
  async all(): Promise<void> {
    while (this.hasMore && !this.fault && !this.#stop.signal.aborted) await this.more();
  }

  /** Takes note of which rows are looked at: asks for the next page in time, and for the inputs once they stand still. */
  see(first: number, last: number): void {
    if (this.hasMore && !this.fault && last > this.rows.length - PAGE / 2) void this.more();
    clearTimeout(this.#settling);
    const wanted = this.rows.slice(first, last).filter(({ id }) => !this.inputs.has(id));
    if (wanted.length) this.#settling = setTimeout(() => this.#askInputs(wanted.map(({ id }) => id)), SETTLED_MS);
  }

  remove(id: string): void {
    this.rows = this.rows.filter((row) => row.id !== id);
  }

  put(response: Stored): void {
    const { status } = this.filters;
    if (status && response.status !== status) this.remove(response.id);
    else this.rows = this.rows.map((row) => (row.id === response.id ? rowOf(response) : row));
  }

  #page(limit: number, after?: string): Promise<Page<Stored>> {
    const query = asked(this.filters);
    query.append("limit", String(limit));
    if (after) query.append("after", after);
    return get<Page<Stored>>(`/v1/responses?${query}`, { signal: this.#stop.signal });
  }

  async #askInputs(ids: string[]): Promise<void> {
    const next = async (): Promise<void> => {
      for (let id = ids.shift(); id && !this.#stop.signal.aborted; id = ids.shift()) {
        this.inputs.set(id, await inputText(id, this.#stop.signal).catch(() => ""));
      }
    };
    await Promise.all([next(), next(), next()]);
  }

  #renewLater(): void {
    if (!this.#stop.signal.aborted) this.#renewing = setTimeout(() => this.#renew(), RENEW_EVERY_MS);
  }

  async #renew(): Promise<void> {
    if (!document.hidden && !this.fault) {
      try {
        await this.#takeNewer(false);
        await this.#takeEnded();
      } catch (error) {
        if (isKeyless(error)) return;
        // else the next time may go better; the status in the top bar tells when the server is away
      }
    }
    this.#renewLater();
  }

  /** Puts what is new before the rows; while nobody sees their beginning, only counts it. */
  async #takeNewer(isWanted: boolean): Promise<void> {
    const page = await this.#page(NEWEST);
    const known = new Set(this.rows.map(({ id }) => id));
    const fresh = page.data.filter(({ id }) => !known.has(id));
    this.newer = fresh.length;
    if (!fresh.length || !(isWanted || this.isAtBegin())) return;
    this.newer = 0;
    if (fresh.length < page.data.length) this.rows = [...fresh.map(rowOf), ...this.rows];
    else [this.rows, this.hasMore] = [page.data.map(rowOf), page.has_more];
  }

  isAtBegin: () => boolean = () => true;

  takeNewer(): Promise<void> {
    return this.#takeNewer(true);
  }

  async #takeEnded(): Promise<void> {
    const unfinished = this.rows.filter((row) => isUnfinished(row.status)).slice(0, UNFINISHED_MAX);
    for (const { id } of unfinished) {
      try {
        this.put(await get<Stored>(pathOf(id), { signal: this.#stop.signal }));
      } catch (error) {
        if (!(error instanceof ApiError && error.status === 404)) throw error;
        this.remove(id);
      }
    }
  }
}
