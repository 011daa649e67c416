// Family: the responses that one goes back to, and all that go on from these, as far as they were found.
// The list cannot be asked for those that go on from a response. So it is looked through, oldest first, from the first
// ancestor on: whatever goes on from another is younger.
import { ApiError, get } from "../lib/api";
import { pathOf, rowOf, type Page, type Row, type Stored } from "./stored";

const ANCESTORS_MAX = 40;
const PAGE = 100;

/** One of the family; null in place of its row: it was deleted. `depth`: how many forks lie above it. */
export type Member = { id: string; row: Row | null; depth: number; forks: number };

export class Family {
  members: Member[] = $state.raw([]);
  hasOlder = $state(false);
  isLooking = $state(false);
  /** Whether the list was looked through to its end. */
  isWhole = $state(false);
  looked = $state(0);
  #rows = new Map<string, Row | null>();
  #root = "";
  #after = "";

  constructor(readonly signal: AbortSignal) {}

  /** `known`: rows that are here anyway. */
  async begin(response: Stored, known: Row[]): Promise<void> {
    this.#rows.set(response.id, rowOf(response));
    this.#root = response.id;
    await this.older();
    const from = this.#from();
    for (const row of known.filter(({ at }) => at >= from).reverse()) this.#take(row);
    this.#show();
    await this.look();
  }

  /** Further ancestors. */
  async older(): Promise<void> {
    for (let count = 0; count < ANCESTORS_MAX; count++) {
      const id = this.#rows.get(this.#root)?.parent;
      if (!id) break;
      this.#rows.set(id, await this.#find(id));
      this.#root = id;
    }
    this.hasOlder = Boolean(this.#rows.get(this.#root)?.parent);
    this.#show();
  }

  /** Looks through the next page of the list. */
  async look(): Promise<void> {
    if (this.isLooking || this.isWhole) return;
    this.isLooking = true;
    try {
      const after = this.#after && `&after=${this.#after}`;
      const page = await get<Page<Stored>>(`/v1/responses?order=asc&limit=${PAGE}&created_after=${this.#from()}${after}`, { signal: this.signal });
      for (const one of page.data) this.#take(rowOf(one));
      this.#after = page.last_id ?? this.#after;
      this.looked += page.data.length;
      this.isWhole = !page.has_more;
    } finally {
      this.isLooking = false;
    }
    this.#show();
  }

  #from(): number {
    return Math.min(...[...this.#rows.values()].map((row) => row?.at ?? Infinity));
  }

  #take(row: Row): void {
    if (row.parent && this.#rows.has(row.parent)) this.#rows.set(row.id, row);
  }

  async #find(id: string): Promise<Row | null> {
    try {
      return rowOf(await get<Stored>(pathOf(id), { signal: this.signal }));
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return null;
      throw error;
    }
  }

  /** From the root on; what goes on from it without a fork stays in its column. */
  #show(): void {
    const children = new Map<string, string[]>();
    for (const [id, row] of this.#rows) if (row?.parent && id !== this.#root) children.set(row.parent, [...(children.get(row.parent) ?? []), id]);
    const members: Member[] = [];
    const waiting: [string, number][] = [[this.#root, 0]];
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const [id, depth] = next;
      const own = (children.get(id) ?? []).sort((a, b) => this.#rows.get(a)!.at - this.#rows.get(b)!.at);
      members.push({ id, row: this.#rows.get(id) ?? null, depth, forks: own.length });
      waiting.push(...own.reverse().map((child): [string, number] => [child, depth + (own.length > 1 ? 1 : 0)]));
    }
    this.members = members;
  }
}
