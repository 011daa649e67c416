// What can be looked up: every name of the API, from /openapi.json and the compatibility manifest, with the request that
// shows it.
import { get, type Json, type JsonObject } from "../lib/api";
import { address } from "../lib/route.svelte";
import { isObject, kindsOf, nameOf, tagOf, type Components, type Schema } from "./schema";

export type State = "done" | "later" | "refused" | "never";
export type Parameter = { name: string; in: "path" | "query"; description?: string; schema: Schema; style?: string };
export type Operation = {
  id: string;
  method: string;
  path: string;
  summary: string;
  parameters: Parameter[];
  body: Schema | null;
  isForm: boolean;
  answer: Schema | null;
  streams: boolean;
  statuses: [string, string][];
  needsKey: boolean;
};
/** A request before it is sent. `body`: null where there is none; of a form, its fields. `isForeign`:
 *  it shows what clients of other servers send, which the types do not know. */
export type Prepared = { operation: Operation; fields: Record<string, string>; headers: Record<string, string>; body: JsonObject | null; isForeign: boolean };
export type Entry = {
  surface: string;
  name: string;
  state: State | null;
  note: string;
  operation: Operation | null;
  /** The parameter of the operation that this entry is about. */
  focus: string;
  schema: Schema | null;
  request: () => Prepared | null;
};
export type Surface = { key: string; title: string; about: string; entries: Entry[] };
export type Catalogue = { surfaces: Surface[]; entries: Entry[]; operations: Map<string, Operation>; components: Components; notes: (surface: string, name: string) => Noted | undefined; sdkNames: Set<string> };

type Asked = { method?: string; path?: string; headers?: Record<string, string>; body?: JsonObject | string };
type Noted = { state: State; note: string; request?: Asked };
type Manifest = Record<string, { title: string; about: string; names: Record<string, Noted> }>;
type RawOperation = {
  summary: string;
  parameters?: Parameter[];
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: Schema }> }>;
  security?: unknown;
};
type OpenApi = { paths: Record<string, Record<string, RawOperation>>; components: { schemas: Components } };

export const CREATE = "POST /v1/responses";
const OTHER_WIRE = "/openresponses/";
const NOT_IN_SDK = new Set(["multi_agent", "generate", "stream_id"]); // of the beta, and of the WebSocket
const GREETING = "Say hello in three languages.";
const EXAMPLES: Record<string, JsonObject> = {
  [CREATE]: { model: "", input: "Write a haiku about an echo.", stream: true },
  "POST /openresponses/v1/responses": { model: "", input: "Write a haiku about an echo.", stream: true },
  "POST /v1/uploads": { bytes: 5, filename: "notes.txt", mime_type: "text/plain", purpose: "user_data" },
  "POST /v1/uploads/{upload_id}/complete": { part_ids: [] },
  "POST /v1/files": { purpose: "user_data" },
};

export function addressOf(entry: Entry): string {
  return address("explorer", entry.surface, entry.name);
}

/** What a search looks at, and how much it counts. What is not served comes after what is. */
export function textsOf({ name, note, operation, state }: Entry): [string, number][] {
  const counts = state === "done" ? 1 : 0.7;
  return [[name, counts], [name.replace(/^\w+ \/v1/, ""), counts], [operation?.summary ?? "", counts / 2], [note, counts / 4]];
}

let loading: Promise<Catalogue> | undefined;

export function catalogue(): Promise<Catalogue> {
  loading ??= load().catch((error) => {
    loading = undefined;
    throw error;
  });
  return loading;
}

async function load(): Promise<Catalogue> {
  const [openapi, manifest] = await Promise.all([get<OpenApi>("/openapi.json"), get<Manifest>("/console/manifest.json")]);
  const components = openapi.components.schemas;
  const operations = new Map<string, Operation>();
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, raw] of Object.entries(methods)) {
      const operation = operationOf(method.toUpperCase(), path, raw);
      operations.set(operation.id, operation);
    }
  }
  for (const [name, { state, note }] of Object.entries(manifest["paths"]!.names)) {
    const [method, path] = name.split(" ");
    const isUnlisted = state === "done" && method === "GET" && !name.includes("?") && !operations.has(name);
    if (isUnlisted) operations.set(name, operationOf(method, path!, { summary: note, responses: {} })); // the description itself
  }
  const find = finder(components);
  const prepare = (surface: string, noted?: Asked) => prepared(operations, noted ?? {}, surface === "dialects");
  const surfaces = Object.entries(manifest).map(([key, { title, about, names }]): Surface => ({
    key,
    title,
    about,
    entries: Object.entries(names).map(([name, { state, note, request }]) => {
      const [id, focus = ""] = key === "paths" ? name.split("?") : ["", ""];
      const operation = operations.get(id!) ?? null;
      const whole = operation && !focus ? () => blank(operation, request?.body) : null;
      return { surface: key, name, state, note, operation, focus, schema: find(key, name), request: whole ?? (() => prepare(key, request)) };
    }),
  }));
  const known = new Set(surfaces[0]!.entries.map((entry) => entry.name));
  const rest = [...operations.values()].filter((one) => !known.has(one.id)).map(unlisted);
  surfaces[0]!.entries.push(...rest.filter((entry) => !entry.operation!.path.startsWith(OTHER_WIRE)));
  const others = rest.filter((entry) => entry.operation!.path.startsWith(OTHER_WIRE));
  surfaces.splice(1, 0, { key: "openresponses", title: "Paths of Open Responses", about: "The same in the wire of Open Responses.", entries: others });
  return {
    surfaces,
    entries: surfaces.flatMap((surface) => surface.entries),
    operations,
    components,
    notes: (surface, name) => manifest[surface]?.names[name],
    sdkNames: new Set(Object.keys(manifest["parameters"]!.names).filter((name) => !NOT_IN_SDK.has(name))),
  };
}

function operationOf(method: string, path: string, raw: RawOperation): Operation {
  const form = raw.requestBody?.content["multipart/form-data"];
  const answers = raw.responses["200"]?.content ?? {};
  return {
    id: `${method} ${path}`,
    method,
    path,
    summary: raw.summary,
    parameters: raw.parameters ?? [],
    body: (form ?? raw.requestBody?.content["application/json"])?.schema ?? null,
    isForm: form !== undefined,
    answer: answers["application/json"]?.schema ?? null,
    streams: "text/event-stream" in answers,
    statuses: Object.entries(raw.responses)
      .filter(([status]) => /^4|^5/.test(status))
      .map(([status, { description }]) => [status, description]),
    needsKey: raw.security !== undefined,
  };
}

function unlisted(operation: Operation): Entry {
  const isOther = operation.path.startsWith(OTHER_WIRE);
  return { surface: isOther ? "openresponses" : "paths", name: operation.id, state: "done", note: operation.summary + ".", operation, focus: "", schema: null, request: () => blank(operation) };
}

// -- schemas by name

const FROM: Record<string, [component: string, property: string]> = {
  items: ["CreateResponse", "input"],
  outputs: ["Response", "output"],
  tools: ["CreateResponse", "tools"],
  choices: ["CreateResponse", "tool_choice"],
  formats: ["TextOptions", "format"],
};

function finder(all: Components): (surface: string, name: string) => Schema | null {
  const anywhere = new Map(Object.values(all).flatMap((schema) => (tagOf(schema) ? [[tagOf(schema)!, schema] as const] : [])));
  const within = (name: string): Map<string, Schema> => {
    const [component, property] = FROM[name]!;
    return new Map(kinds(all[component]?.properties?.[property], all).flatMap((kind) => (tagOf(kind) ? [[tagOf(kind)!, kind] as const] : [])));
  };
  const maps = Object.fromEntries(Object.keys(FROM).map((key) => [key, within(key)]));
  return (surface, name) => {
    if (surface === "parameters" || surface === "dialects") return property(all["CreateResponse"], name.split("."), all);
    if (surface === "response") return property(all["Response"], [name], all);
    const tagged = maps[surface] ?? (surface === "parts" || surface === "events" ? anywhere : undefined);
    if (!tagged) return null;
    const whole = tagged.get(name);
    if (whole || surface === "events") return whole ?? null;
    const [tag, ...steps] = name.split(".");
    return property(tagged.get(tag!), steps, all);
  };
}

function kinds(schema: Schema | undefined, all: Components): Schema[] {
  return schema ? kindsOf(schema, all).kinds.flatMap((kind) => (kind.type === "array" ? kinds(kind.items, all) : [kind])) : [];
}

function property(schema: Schema | undefined, steps: string[], all: Components): Schema | null {
  if (!schema || !steps.length) return schema ?? null;
  const owner = kinds(schema, all).find((kind) => kind.properties?.[steps[0]!]);
  return property(owner?.properties?.[steps[0]!], steps.slice(1), all);
}

// -- requests

function blank(operation: Operation, shown?: JsonObject | string): Prepared {
  const body = operation.body && (EXAMPLES[operation.id] ?? (shown || hasModel(operation) ? bodyOf(operation, shown) : exampleOf(operation.body)));
  return { operation, fields: {}, headers: {}, body, isForeign: false };
}

/** The least that a schema asks for, of those things that have a default. */
function exampleOf(schema: Schema): JsonObject {
  return Object.fromEntries((schema.required ?? []).map((name) => [name, schema.properties?.[name]?.default ?? ""]));
}

/** The request of the manifest; one that names neither is a usual one, which makes a response. None that no page can send. */
function prepared(operations: Map<string, Operation>, asked: Asked, isForeign: boolean): Prepared | null {
  if (asked.headers?.["upgrade"]) return null;
  const [path, query] = (asked.path ?? "/v1/responses").split("?");
  const found = [...operations.values()].find((one) => one.method === (asked.method ?? "POST") && pattern(one.path).test(path!));
  if (!found) return null;
  const fields: Record<string, string> = {};
  for (const [name, value] of Object.entries(pattern(found.path).exec(path!)?.groups ?? {})) fields[name] = value === "{id}" ? "" : decodeURIComponent(value);
  for (const [name, value] of new URLSearchParams(query)) fields[name.replace("[]", "")] = value === "{id}" ? "" : value;
  return { operation: found, fields, headers: asked.headers ?? {}, body: found.body ? bodyOf(found, asked.body) : null, isForeign };
}

function pattern(path: string): RegExp {
  return new RegExp(`^${path.replace(/\{(\w+)\}/g, "(?<$1>[^/]+)")}$`);
}

function bodyOf(operation: Operation, body: JsonObject | string | undefined): JsonObject {
  if (typeof body === "string") {
    try {
      const value = JSON.parse(body) as Json;
      if (isObject(value)) return value;
    } catch {
      // some probes show what happens to a body that is no JSON
    }
  }
  const usual: JsonObject = hasModel(operation) ? { model: "", input: GREETING } : {};
  return isObject(body as Json) ? { ...usual, ...(body as JsonObject) } : usual;
}

export function hasModel(operation: Operation): boolean {
  const schema = operation.body;
  return Boolean(schema?.$ref && ["CreateResponse", "CountInputTokens", "CompactConversation"].includes(nameOf(schema.$ref))) || /^POST .*\/responses(\/compact|\/input_tokens)?$/.test(operation.id);
}
