// Paged: a list of the API, page by page, as far as it was read.
import { get } from "./api";

type Page<T> = { data: T[]; has_more: boolean; last_id: string | null };

export class Paged<T extends { id: string }> {
  rows: T[] = $state.raw([]);
  hasMore = $state(false);
  /** Whether something was read; a list may then be called empty. */
  isRead = $state(false);
  isReading = $state(false);
  #turn = 0;

  constructor(
    readonly path: string,
    readonly query: Record<string, string> = {},
  ) {}

  /** From the beginning. */
  read(): Promise<void> {
    return this.#read(null);
  }

  more(): Promise<void> {
    return this.#read(this.rows.at(-1)?.id ?? null);
  }

  add(row: T): void {
    this.rows = [row, ...this.rows];
  }

  put(row: T): void {
    this.rows = this.rows.map((one) => (one.id === row.id ? row : one));
  }

  drop(id: string): void {
    this.rows = this.rows.filter((one) => one.id !== id);
  }

  async #read(after: string | null): Promise<void> {
    const turn = ++this.#turn;
    this.isReading = true;
    try {
      const query = new URLSearchParams({ limit: "100", ...this.query, ...(after ? { after } : {}) });
      const page = await get<Page<T>>(`${this.path}?${query}`);
      if (turn !== this.#turn) return;
      this.rows = after ? [...this.rows, ...page.data] : page.data;
      this.hasMore = page.has_more;
      this.isRead = true;
    } finally {
      if (turn === this.#turn) this.isReading = false;
    }
  }
}
