// Opened: one stored response with the items of its input; asked for again while it is being made.
import { ApiError, get, remove, type JsonObject } from "../lib/api";
import type { Item } from "../lib/fold";
import { isUnfinished, lastOf, pathOf, type Page, type Stored } from "./stored";

const ITEMS = 100;
const RESULTS = "?include[]=web_search_call.results";
const RENEW_EVERY_MS = 1_200;
/** What ends that: it is gone, or not for this key. */
const FINAL = [401, 403, 404];

export class Opened {
  response: Stored | null = $state.raw(null);
  /** Of the input, oldest first: what its own request gave. */
  input: Item[] = $state.raw([]);
  /** And what it found there, from the responses before it; of a long chain the newest part. */
  earlier: Item[] = $state.raw([]);
  hasEarlier = $state(false);
  fault = $state("");
  readonly stop = new AbortController();
  #items: Item[] = [];
  #boundary = "";
  #renewing = 0;
  #begun = Promise.resolve();

  constructor(
    readonly id: string,
    readonly onput: (response: Stored) => void,
  ) {}

  begin(): Promise<void> {
    return (this.#begun = this.#begin());
  }

  async #begin(): Promise<void> {
    try {
      this.response = await this.#get<Stored>(pathOf(this.id) + RESULTS);
      this.#boundary = await lastOf(this.response.previous_response_id, this.stop.signal);
      await this.loadItems();
    } catch (error) {
      if (!this.stop.signal.aborted) this.fault = (error as Error).message;
      return;
    }
    this.#renewLater();
  }

  close(): void {
    this.stop.abort();
    clearTimeout(this.#renewing);
  }

  /** The newest items of the input, or those before the ones that are here. */
  async loadItems(): Promise<void> {
    const after = this.#items[0] ? `&after=${this.#items[0]["id"]}` : "";
    const page = await this.#get<Page<Item>>(`${pathOf(this.id)}/input_items?limit=${ITEMS}&order=desc${after}`);
    this.#items = [...page.data.reverse(), ...this.#items];
    this.hasEarlier = page.has_more;
    const begin = this.#items.findIndex((item) => item["id"] === this.#boundary) + 1;
    this.earlier = this.#items.slice(0, begin);
    this.input = this.#items.slice(begin);
  }

  /** With the whole input, however long. */
  async whole(): Promise<JsonObject> {
    await this.#begun;
    while (this.hasEarlier) await this.loadItems();
    return { response: await this.#get(pathOf(this.id) + RESULTS), input_items: this.#items };
  }

  async cancel(): Promise<void> {
    this.#take(await this.#get<Stored>(`${pathOf(this.id)}/cancel`, "POST"));
  }

  async renew(): Promise<void> {
    this.#take(await this.#get<Stored>(pathOf(this.id) + RESULTS));
  }

  async delete(): Promise<void> {
    await remove(pathOf(this.id), this.stop.signal);
  }

  #take(response: Stored): void {
    this.response = response;
    this.onput(response);
  }

  #renewLater(): void {
    if (!this.response || !isUnfinished(this.response.status) || this.stop.signal.aborted) return;
    this.#renewing = setTimeout(async () => {
      const fault: unknown = document.hidden ? null : await this.renew().catch((error) => error);
      if (fault instanceof ApiError && FINAL.includes(fault.status)) this.fault = fault.message;
      else this.#renewLater();
    }, RENEW_EVERY_MS);
  }

  #get<T>(path: string, method = "GET"): Promise<T> {
    return get<T>(path, { method, signal: this.stop.signal });
  }
}
