// The API, as this page asks it: with the visitor's key, on this server alone.
import { session } from "./session.svelte";

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type JsonObject = { [name: string]: Json };
export type Asked = {
  method?: string;
  body?: Json | string | FormData;
  headers?: Record<string, string>;
  signal?: AbortSignal;
};

/** What the API answered instead; of status 0, that it did not. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null = null,
    readonly param: string | null = null,
  ) {
    super(message);
  }
}

/** The answer, whatever its status. A 401 asks the visitor for a key, and then the server once more. Throws ApiError. */
export async function ask(path: string, asked: Asked = {}): Promise<Response> {
  for (;;) {
    const key = session.key;
    const response = await fetch(path, init(asked)).catch((error: Error) => {
      throw asked.signal?.aborted ? error : new ApiError("The server is not reached.", 0);
    });
    if (response.status !== 401) return response;
    if (session.key !== key) continue; // another was entered meanwhile
    const refusal = session.key ? "The server does not take this key." : "";
    if (!(await session.askForKey(refusal))) return response;
  }
}

function init(asked: Asked): RequestInit {
  const headers = new Headers(asked.headers);
  if (session.key) headers.set("authorization", `Bearer ${session.key}`);
  let body: BodyInit | undefined;
  if (asked.body instanceof FormData || typeof asked.body === "string") body = asked.body;
  else if (asked.body !== undefined) body = JSON.stringify(asked.body);
  if (body !== undefined && !(body instanceof FormData) && !headers.has("content-type")) {
    headers.set("content-type", "application/json");
  }
  return { method: asked.method ?? "GET", headers, body, signal: asked.signal, cache: "no-store" };
}

/** The JSON of a good answer. Throws ApiError. */
export async function get<T = JsonObject>(path: string, asked: Asked = {}): Promise<T> {
  const response = await ask(path, asked);
  if (!response.ok) throw await refused(response);
  return (await response.json()) as T;
}

/** Deletes; what somebody else has deleted meanwhile is as good: gives whether it was still there. */
export async function remove(path: string, signal?: AbortSignal): Promise<boolean> {
  const response = await ask(path, { method: "DELETE", signal });
  if (!response.ok && response.status !== 404) throw await refused(response);
  return response.ok;
}

/** Whether the visitor gave no key that the server takes: who does not is not asked for it every few seconds. */
export function isKeyless(error: unknown): boolean {
  return error instanceof ApiError && error.status === 401;
}

export async function refused(response: Response): Promise<ApiError> {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return new ApiError(error.message, response.status, error.code, error.param);
  } catch {
    return new ApiError(text.slice(0, 300) || response.statusText, response.status);
  }
}

export type Model = { id: string; owned_by: string };

let models: Promise<Model[]> | undefined;
let modelsKey = "";

/** The models that this server names; asked for once a key. In an effect it is asked for anew with another one. */
export function listModels(): Promise<Model[]> {
  if (session.key !== modelsKey) models = undefined;
  modelsKey = session.key;
  models ??= get<{ data: Model[] }>("/v1/models").then(
    (list) => list.data,
    (error) => {
      models = undefined;
      throw error;
    },
  );
  return models;
}

const HEALTH_EVERY_MS = 15_000;
const HEALTH_WAIT_MS = 5_000;

/** Looks now, and from time to time, whether the server is there. */
export async function watchHealth(): Promise<never> {
  for (;;) {
    try {
      const response = await fetch("/health", { cache: "no-store", signal: AbortSignal.timeout(HEALTH_WAIT_MS) });
      session.version = ((await response.json()) as { version: string }).version;
      session.health = response.ok ? "up" : "down";
    } catch {
      session.health = "down";
    }
    await new Promise((resolve) => setTimeout(resolve, HEALTH_EVERY_MS));
  }
}
