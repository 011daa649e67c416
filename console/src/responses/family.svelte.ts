// Family: the responses that one goes back to, and what goes on from any of them: asked for member by member, breadth first.
import { ApiError, get } from "../lib/api";
import { pathOf, rowOf, type Page, type Row, type Stored } from "./stored";

const ANCESTORS_MAX = 40;
const CHILDREN_MAX = 20;
const ASKED_MAX = 60;
const TOGETHER = 4;

/** One of the family; null in place of its row: it was deleted. `depth`: how many forks lie above it. `hasMore`: more goes on from it than is here. */
export type Member = { id: string; row: Row | null; depth: number; forks: number; hasMore: boolean };

export class Family {
  members: Member[] = $state.raw([]);
  hasOlder = $state(false);
  /** Whether some were not asked yet what goes on from them. */
  hasMore = $state(false);
  isLooking = $state(true);
  #rows = new Map<string, Row | null>();
  #root = "";
  #waiting: string[] = [];
  #partly = new Set<string>();

  constructor(readonly signal: AbortSignal) {}

  async begin(response: Stored): Promise<void> {
    this.#take(rowOf(response));
    this.#root = response.id;
    await this.older();
  }

  /** Further ancestors, with what goes on from them. */
  async older(): Promise<void> {
    for (let count = 0; count < ANCESTORS_MAX; count++) {
      const id = this.#rows.get(this.#root)?.parent;
      if (!id) break;
      this.#rows.set(id, await this.#find(id));
      this.#waiting.push(id);
      this.#root = id;
    }
    this.hasOlder = Boolean(this.#rows.get(this.#root)?.parent);
    this.#show();
    await this.look();
  }

  /** What goes on from those that were not asked yet, or from the first so many of them. */
  async look(): Promise<void> {
    let left = ASKED_MAX;
    const next = async (): Promise<void> => {
      for (let id = this.#waiting.shift(); id; id = left > 0 ? this.#waiting.shift() : "") {
        left--;
        await this.#ask(id);
      }
    };
    this.isLooking = true;
    try {
      await Promise.all(Array.from({ length: TOGETHER }, next));
    } finally {
      this.isLooking = false;
      this.hasMore = this.#waiting.length > 0;
    }
  }

  async #ask(id: string): Promise<void> {
    const asked = get<Page<Stored>>(`/v1/responses?previous_response_id=${encodeURIComponent(id)}&limit=${CHILDREN_MAX}`, { signal: this.signal });
    const page = await asked.catch((error) => {
      this.#waiting.unshift(id); // for the next look
      throw error;
    });
    if (page.has_more) this.#partly.add(id);
    for (const one of page.data.reverse()) this.#take(rowOf(one));
    this.#show();
  }

  #take(row: Row): void {
    if (!this.#rows.has(row.id)) this.#waiting.push(row.id);
    this.#rows.set(row.id, row);
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
      members.push({ id, row: this.#rows.get(id) ?? null, depth, forks: own.length, hasMore: this.#partly.has(id) });
      waiting.push(...own.reverse().map((child): [string, number] => [child, depth + (own.length > 1 ? 1 : 0)]));
    }
    this.members = members;
  }
}
