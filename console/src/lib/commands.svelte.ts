// What the palette (Ctrl-K, or "/") finds: pages and actions, and what a page adds of its own.
import type { IconName } from "../ui/icons";

export type Command = { title: string; hint: string; icon: IconName; run: () => void; texts?: [string, number][] };
type Source = () => Command[];

class Commands {
  isOpen = $state(false);
  #sources: Source[] = [];

  /** Adds what a page knows; gives what takes it away again. */
  add(source: Source): () => void {
    this.#sources.push(source);
    return () => (this.#sources = this.#sources.filter((one) => one !== source));
  }

  all(): Command[] {
    return this.#sources.flatMap((source) => source());
  }
}

export const commands = new Commands();
