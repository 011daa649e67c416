// The key that requests are sent with, and whether the server is there.
import { keep, kept } from "./kept";

export type Health = "unknown" | "up" | "down";

class Session {
  key: string = $state(kept("key") ?? "");
  isAskedForKey = $state(false);
  refusal = $state("");
  /** Grows when the visitor takes another key, or none: what is shown is not for them any more. */
  epoch = $state(0);
  /** Called then, of what outlives a page. */
  readonly leaving: (() => void)[] = [];
  health: Health = $state("unknown");
  version = $state("");
  #waiting: ((isGiven: boolean) => void)[] = [];

  /** Asks the visitor for a key, once for all requests that wait for one. Gives whether one was entered. */
  askForKey(refusal: string): Promise<boolean> {
    this.refusal = refusal;
    this.isAskedForKey = true;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  enter(key: string): void {
    this.key = key.trim();
    keep("key", this.key);
    this.#answer(true);
  }

  /** Asks because the visitor wants to give one. */
  async change(): Promise<void> {
    if (await this.askForKey("")) this.#leave();
  }

  forget(): void {
    this.key = "";
    keep("key", null);
    keep("draft", null);
    this.#leave();
  }

  dismiss(): void {
    this.#answer(false);
  }

  /** What was asked for with the former key goes; of the playground too, which may not be loaded. */
  #leave(): void {
    this.epoch++;
    keep("chat", null);
    for (const leave of this.leaving) leave();
  }

  #answer(isGiven: boolean): void {
    this.isAskedForKey = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve(isGiven);
  }
}

export const session = new Session();
