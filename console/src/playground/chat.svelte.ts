// Chat: turns as a tree. Each is a stored response that goes on from its parent's; `head` is the one that the next goes on
// from, and the way up from it is what is shown. The browser keeps the ids and how each was asked for; the rest is read
// again from the server. Lives as long as the window, so that a turn streams on while another page is looked at.
import { get, type JsonObject } from "../lib/api";
import type { Folded, Item } from "../lib/fold";
import { Exchange } from "../lib/exchange.svelte";
import { givenBack } from "../lib/items";
import { read } from "../lib/json";
import { keep, kept } from "../lib/kept";
import { session } from "../lib/session.svelte";
import { lastOf, pathOf } from "../responses/stored";
import { contents, type Attached } from "./items";
import type { Arrived } from "../lib/sse";

/** A turn as the browser keeps it. `asked`: the request without its input, of which it had `given` items. */
type Kept = { id: string; parent: string | null; title: string; asked: JsonObject; given: number; firstMs: number | null; perSecond: number | null };
export type Turn = Kept & { input: Item[]; response: Folded | null; fault: string };
export type Refusal = { message: string; code: string; param: string };

const STORED = "antiphon.chat"; // as lib/kept.ts calls it
const TURNS_MAX = 300;
const KEPT_CHARS_MAX = 1_500_000; // browsers keep some 5 MB for all of a server's pages
const TITLE_CHARS_MAX = 80;
const ITEMS_A_PAGE = 100;
const OPENED_MAX = 100;
const READ_EVERY_MS = 300;
const READS_MAX = 40;

class Chat {
  turns: Turn[] = $state.raw([]);
  head: string | null = $state(null);
  exchange: Exchange | null = $state.raw(null);
  /** The turn that is being made, as far as it is known. */
  asking: Turn | null = $state.raw(null);
  refusal: Refusal | null = $state.raw(null);
  /** What is written and not sent: a message, its files, the answers to calls by their ids. */
  draft = $state(kept("draft") ?? "");
  attached: Attached[] = $state.raw([]);
  answers: Record<string, string | boolean> = $state({});

  constructor() {
    this.head = this.#recall();
    this.#readPath();
    addEventListener("storage", ({ key }) => key === STORED && this.#recall()); // another window changed it
    session.leaving.push(() => this.#leave());
    addEventListener("pagehide", () => this.exchange?.folded && this.#take(this.asking!, this.exchange));
  }

  get isRunning(): boolean {
    return this.exchange?.isRunning ?? false;
  }

  /** From the first turn to the head. */
  get path(): Turn[] {
    const path: Turn[] = [];
    for (let turn = this.find(this.head); turn; turn = this.find(turn.parent)) path.unshift(turn);
    return path;
  }

  find(id: string | null): Turn | undefined {
    return this.turns.find((turn) => turn.id === id);
  }

  /** What goes on from a turn; of null, how conversations began. The oldest first. */
  after(parent: string | null): Turn[] {
    return this.turns.filter((turn) => turn.parent === parent);
  }

  /** The next turn goes on from here. */
  fork(id: string | null): void {
    this.head = id;
    this.refusal = null;
    this.#keep();
    this.#readPath();
  }

  /** Shows the branch that a turn is on, to its newest end. */
  enter(id: string): void {
    let end = id;
    for (let next = this.after(end); next.length; next = this.after(end)) end = next[next.length - 1]!.id;
    this.fork(end);
  }

  /** Takes a stored response over, with those that it goes on from, and goes on from it. */
  async open(id: string, signal: AbortSignal): Promise<Turn> {
    const chain: Turn[] = [];
    for (let next: string | null = id; next && !this.find(next) && chain.length < OPENED_MAX; next = chain[0]!.parent) {
      try {
        const path = pathOf(next);
        const [response, read] = await Promise.all([get<Folded>(path, { signal }), get<{ data: Item[] }>(`${path}/input_items?order=desc&limit=${ITEMS_A_PAGE}`, { signal })]);
        const parent = response["previous_response_id"] as string | null;
        chain.unshift({ id: next, parent, title: "", asked: askedOf(response), given: 0, firstMs: null, perSecond: null, input: read.data, response, fault: "" });
      } catch (error) {
        if (!chain.length) throw error;
        break; // what came before is deleted
      }
    }
    for (const [at, turn] of chain.entries()) {
      const before = chain[at - 1] ?? this.find(turn.parent);
      const left = before?.response?.output.at(-1)?.["id"] ?? (await lastOf(turn.parent, signal));
      const own = left ? turn.input.findIndex((item) => item["id"] === left) : -1;
      turn.input = turn.input.slice(0, own < 0 ? undefined : own).reverse();
      Object.assign(turn, { given: turn.input.length, title: titleOf(turn.input), parent: before?.id ?? null });
    }
    signal.throwIfAborted();
    this.turns = [...this.turns, ...chain.filter((turn) => !this.find(turn.id))];
    const opened = this.find(id)!;
    this.#makeRoom(opened);
    this.fork(id);
    return opened;
  }

  /** Forgets a conversation, here: the server keeps its responses. */
  forget(root: string): void {
    this.turns = this.turns.filter((turn) => this.#rootOf(turn) !== root);
    if (!this.find(this.head)) this.head = null;
    this.#keep();
  }

  /** Takes what was said in a turn back, to say it otherwise: on a branch beside it. */
  again(turn: Turn): void {
    this.fork(turn.parent);
    const [text, attached] = contents(turn.input[0]!);
    this.draft = [this.draft, text].filter(Boolean).join("\n");
    this.attached = [...this.attached, ...attached];
  }

  stop(): void {
    this.exchange?.stop();
  }

  /** Asks for one turn more; false where the server would not make it, `refusal` says why. */
  async send(request: JsonObject, input: Item[]): Promise<boolean> {
    if (this.isRunning) return false;
    const asked: JsonObject = { ...request, ...(this.head && { previous_response_id: this.head }), stream: true, store: true };
    const body = { ...asked, input: plain(input) };
    const exchange = new Exchange("/v1/responses", { method: "POST", body });
    const turn: Turn = { id: "", parent: this.head, title: titleOf(input), asked, given: input.length, firstMs: null, perSecond: null, input, response: null, fault: "" };
    this.refusal = null;
    this.exchange = exchange;
    this.asking = turn;
    await exchange.run();
    if (this.exchange !== exchange) return true; // its key was left meanwhile
    this.asking = this.exchange = null;
    if (exchange.folded) this.#take(turn, exchange);
    else if (exchange.phase !== "stopped") this.refusal = refusalOf(exchange);
    return exchange.folded !== null;
  }

  /** Takes over what the browser has kept; gives its head. */
  #recall(): string | null {
    const known = (read(kept("chat") ?? "null").value ?? { turns: [], head: null }) as { turns: Kept[]; head: string | null };
    this.turns = known.turns.map((turn) => this.find(turn.id) ?? { ...turn, input: [], response: null, fault: "" });
    if (!this.find(this.head)) this.head = null;
    return known.head;
  }

  #take(asked: Turn, exchange: Exchange): void {
    const response = exchange.folded!;
    const turn: Turn = { ...asked, id: response.id, response, fault: faultOf(exchange), ...speedOf(exchange.events, response) };
    this.turns = [...this.turns.filter(({ id }) => id !== turn.id), turn]; // a page that was left may come back
    if (this.head === turn.parent) this.head = turn.id; // else the visitor looks at another branch
    this.#makeRoom(turn);
    this.#keep();
    if (isOngoing(response)) this.#read(turn); // stopped, or cut off: the server ends it
  }

  /** As much is kept as fits, with a turn's conversation: the oldest others go. */
  #makeRoom(turn: Turn): void {
    const root = this.#rootOf(turn);
    while (this.turns.length > TURNS_MAX || JSON.stringify(this.turns.map(bare)).length > KEPT_CHARS_MAX) {
      const oldest = this.turns.find((one) => this.#rootOf(one) !== root);
      if (!oldest) break;
      this.forget(this.#rootOf(oldest));
    }
  }

  /** Nothing stays that was asked for with a key that was left; what is being written does for who enters one. */
  #leave(): void {
    this.exchange?.stop();
    this.exchange = this.asking = this.head = this.refusal = null;
    this.turns = [];
    this.answers = {};
    if (session.key) return;
    this.draft = "";
    this.attached = [];
  }

  #rootOf(turn: Turn): string {
    const parent = this.find(turn.parent);
    return parent ? this.#rootOf(parent) : turn.id;
  }

  #keep(): void {
    keep("chat", this.turns.length ? JSON.stringify({ turns: this.turns.map(bare), head: this.head }) : null);
  }

  #readPath(): void {
    for (const turn of this.path) if (!turn.response) this.#read(turn);
  }

  async #read(turn: Turn): Promise<void> {
    const path = pathOf(turn.id);
    const limit = Math.min(turn.given, ITEMS_A_PAGE);
    try {
      const input = await get<{ data: Item[] }>(`${path}/input_items?order=desc&limit=${limit}`);
      let response = await get<Folded>(path);
      for (let tries = 0; isOngoing(response) && tries < READS_MAX; tries++) {
        await new Promise((resolve) => setTimeout(resolve, READ_EVERY_MS));
        response = await get<Folded>(path);
      }
      this.#change(turn.id, { response, input: input.data.reverse(), fault: "" });
    } catch (error) {
      this.#change(turn.id, { fault: (error as Error).message });
    }
  }

  #change(id: string, known: Partial<Turn>): void {
    this.turns = this.turns.map((turn) => (turn.id === id ? { ...turn, ...known } : turn));
  }
}

function bare({ id, parent, title, asked, given, firstMs, perSecond }: Turn): Kept {
  return { id, parent, title, asked, given, firstMs, perSecond };
}

const FIELDS = ["model", "instructions", "previous_response_id", "reasoning", "temperature", "top_p", "max_output_tokens", "tools", "tool_choice", "text", "metadata"];
const USUAL = new Set(["null", "1", '"auto"', "{}", "[]", '{"effort":null,"summary":null}', '{"format":{"type":"text"},"verbosity":"medium"}']);

/** How a response was asked for, as far as it tells; without what goes without saying. */
function askedOf(response: Folded): JsonObject {
  return Object.fromEntries(FIELDS.map((name) => [name, response[name] ?? null] as const).filter(([, value]) => !USUAL.has(JSON.stringify(value))));
}

/** The whole request of a turn. */
export function bodyOf(turn: Turn): JsonObject {
  const { stream: _, store: __, ...rest } = turn.asked;
  return { ...rest, input: plain(turn.input), stream: true };
}

/** Input as one would write it: a message of one text is that text, and nothing stands there that the server added. */
function plain(input: Item[]): string | JsonObject[] {
  const parts = (input[0]?.["content"] ?? []) as JsonObject[];
  if (input.length === 1 && input[0]!.type === "message" && parts.length === 1 && parts[0]!["type"] === "input_text") return String(parts[0]!["text"]);
  return input.map(({ id: _, status, created_by: __, ...item }) => (item.type === "apply_patch_call_output" ? { ...item, status: status! } : item));
}

function titleOf(input: Item[]): string {
  const parts = input.flatMap((item) => (item.type === "message" ? (item["content"] as JsonObject[]) : []));
  const text = parts.map((part) => part["text"] ?? part["filename"] ?? (part["type"] === "input_image" ? "a picture" : "")).join(" ");
  const said = text.trim() || input.map((item) => (item.type === "mcp_approval_response" ? (item["approve"] ? "approved" : "denied") : givenBack(item))).join(", ");
  return said.slice(0, TITLE_CHARS_MAX).replace(/\s+/g, " ");
}

function speedOf(events: Arrived[], response: Folded): Pick<Kept, "firstMs" | "perSecond"> {
  const first = events.find(({ event }) => event.type.endsWith(".delta"))?.atMs ?? null;
  const last = events[events.length - 1]!.atMs;
  const tokens = Number((response["usage"] as JsonObject | null)?.["output_tokens"] ?? 0);
  return { firstMs: first, perSecond: first === null || tokens < 2 || last <= first ? null : ((tokens - 1) / (last - first)) * 1000 };
}

function faultOf({ fault, headers }: Exchange): string {
  if (fault) return fault;
  const omitted = headers.find(([name]) => name === "antiphon-omitted-tools");
  return omitted ? `Asked without tools that this server does not have: ${omitted[1]}` : "";
}

function isOngoing({ status }: Folded): boolean {
  return status === "in_progress" || status === "queued";
}

function refusalOf({ value, status, text, fault, events }: Exchange): Refusal {
  const told = (value as JsonObject | undefined)?.["error"] as JsonObject | undefined;
  const event = events[0]?.event;
  const error = told ?? (event?.type === "error" ? event : undefined);
  return { message: String(error?.["message"] ?? (fault || text.slice(0, 300) || `The server answered ${status}.`)), code: String(error?.["code"] ?? error?.["type"] ?? ""), param: String(error?.["param"] ?? "") };
}

export const chat = new Chat();
