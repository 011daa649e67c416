// A request as code, ready to be pasted. The key never stands in it: it comes from the environment.
import type { Json, JsonObject } from "./api";
import { written } from "./json";

/** What of an operation its code depends on. */
export type Called = {
  id: string;
  method: string;
  path: string;
  parameters: { name: string; in: "path" | "query"; style?: string }[];
  body: { properties?: Record<string, { format?: string }> } | null;
  isForm: boolean;
  needsKey: boolean;
};
export type Whole = { operation: Called; origin: string; fields: Record<string, string>; headers: Record<string, string>; body: JsonObject | null; file: string };
/** `key`: from where the code takes the API key. */
export type Language = { id: string; title: string; key: string; write: (whole: Whole, sdkNames: Set<string>) => string };

const KEY = "ANTIPHON_API_KEY";
const FROM_ENVIRONMENT = `The key comes from the environment, ${KEY}`;

export const LANGUAGES: Language[] = [
  { id: "curl", title: "curl", key: FROM_ENVIRONMENT, write: curl },
  { id: "python", title: "Python", key: FROM_ENVIRONMENT, write: python },
  { id: "javascript", title: "JavaScript", key: FROM_ENVIRONMENT, write: javascript },
  { id: "conductor", title: "Conductor", key: "The key comes with the workflow's input, antiphon_api_key", write: (whole) => written(conductor(whole)) },
  { id: "task", title: "HTTP task", key: FROM_ENVIRONMENT, write: (whole) => written(task(whole)) },
];

const PREFIXES: Record<string, string> = { response_id: "resp_", conversation_id: "conv_", file_id: "file-", item_id: "msg_" };

/** What an id of this name looks like. */
export function shaped(name: string): string {
  return `${PREFIXES[name] ?? name.replace("id", "")}…`;
}

/** The path with its fields filled in; those that are empty keep their name, where one must stand. */
export function target({ operation, fields }: Pick<Whole, "operation" | "fields">): string {
  const path = operation.path.replace(/\{(\w+)\}/g, (name, field: string) => (fields[field] ? encodeURIComponent(fields[field]) : name));
  const query = Object.entries(queryOf(operation, fields)).map(([name, value]) => `${name.replace(/[^\w[\]]/g, encodeURIComponent)}=${encodeURIComponent(value)}`);
  return query.length ? `${path}?${query.join("&")}` : path;
}

function queryOf(operation: Called, fields: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    operation.parameters
      .filter((one) => one.in === "query" && fields[one.name])
      .flatMap((one): [string, string][] => (one.style === "deepObject" ? pairs(one.name, fields[one.name]!) : [[one.name, fields[one.name]!]])),
  );
}

/** `key=value, key=value` as `name[key]` each. */
function pairs(name: string, text: string): [string, string][] {
  return text.split(",").map((pair) => {
    const [key, ...value] = pair.split("=");
    return [`${name}[${key!.trim()}]`, value.join("=").trim()];
  });
}

function curl(whole: Whole): string {
  const { operation, origin, headers, body, file } = whole;
  const url = origin + target(whole);
  const asIs = /[[\]{}]/.test(url) ? "-g " : ""; // else curl takes brackets for patterns
  const lines = [`curl ${asIs}${operation.method === "GET" ? "" : `-X ${operation.method} `}${quoted(url)}`];
  if (body?.["stream"] === true || whole.fields["stream"] === "true") lines[0] = lines[0]!.replace("curl", "curl -N");
  if (operation.needsKey) lines.push(`-H "Authorization: Bearer $${KEY}"`);
  for (const [name, value] of Object.entries(headers)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (operation.isForm) {
    lines.push(`-F ${quoted(`${fileField(operation)}=@"${file.replace(/["\\]/g, "\\$&")}"`)}`);
    for (const [name, value] of Object.entries(body ?? {})) lines.push(`-F ${quoted(`${name}=${plain(value)}`)}`);
  } else if (body) lines.push(`-H "Content-Type: application/json"`, `-d ${quoted(written(body))}`);
  return lines.join(" \\\n  ");
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function plain(value: Json): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function fileField(operation: Called): string {
  return Object.entries(operation.body?.properties ?? {}).find(([, schema]) => schema.format === "binary")?.[0] ?? "file";
}

// -- the SDKs

// Operation -> what the SDKs call it, in Python; the ids in the order in which it takes them.
const CALLS: Record<string, [call: string, ...ids: string[]]> = {
  "POST /responses": ["responses.create"],
  "GET /responses/{response_id}": ["responses.retrieve", "response_id"],
  "DELETE /responses/{response_id}": ["responses.delete", "response_id"],
  "POST /responses/{response_id}/cancel": ["responses.cancel", "response_id"],
  "GET /responses/{response_id}/input_items": ["responses.input_items.list", "response_id"],
  "POST /responses/input_tokens": ["responses.input_tokens.count"],
  "POST /responses/compact": ["responses.compact"],
  "GET /models": ["models.list"],
  "GET /models/{model}": ["models.retrieve", "model"],
  "POST /conversations": ["conversations.create"],
  "GET /conversations/{conversation_id}": ["conversations.retrieve", "conversation_id"],
  "POST /conversations/{conversation_id}": ["conversations.update", "conversation_id"],
  "DELETE /conversations/{conversation_id}": ["conversations.delete", "conversation_id"],
  "POST /conversations/{conversation_id}/items": ["conversations.items.create", "conversation_id"],
  "GET /conversations/{conversation_id}/items": ["conversations.items.list", "conversation_id"],
  "GET /files": ["files.list"],
  "GET /files/{file_id}": ["files.retrieve", "file_id"],
  "DELETE /files/{file_id}": ["files.delete", "file_id"],
  "GET /files/{file_id}/content": ["files.content", "file_id"],
  "POST /files": ["files.create"],
  "POST /uploads": ["uploads.create"],
  "POST /uploads/{upload_id}/parts": ["uploads.parts.create", "upload_id"],
  "POST /uploads/{upload_id}/complete": ["uploads.complete", "upload_id"],
  "POST /uploads/{upload_id}/cancel": ["uploads.cancel", "upload_id"],
};
const PREFIX = /^\/(openresponses\/)?v1(?=\/)/;

type Call = { base: string; path: string; call: string | null; ids: string[]; query: JsonObject; isStream: boolean };

function called(whole: Whole): Call {
  const { operation, fields, origin, body } = whole;
  const prefix = PREFIX.exec(operation.path)?.[0] ?? "";
  const known = prefix ? CALLS[`${operation.method} ${operation.path.slice(prefix.length)}`] : undefined;
  const query = queryOf(operation, fields);
  const isPlain = !Object.keys(query).some((name) => name.includes("["));
  return {
    base: origin + (prefix || "/v1"),
    path: prefix ? target({ operation, fields: {} }).slice(prefix.length) : origin + operation.path,
    call: known && isPlain ? known[0] : null,
    ids: known?.slice(1).map((name) => fields[name] || shaped(name)) ?? [],
    query: Object.fromEntries(Object.entries(query).map(([name, value]) => [name, typed(value)])),
    isStream: body?.["stream"] === true || fields["stream"] === "true",
  };
}

function typed(value: string): Json {
  if (value === "true" || value === "false") return value === "true";
  return /^\d{1,15}$/.test(value) ? Number(value) : value;
}

function python(whole: Whole, sdkNames: Set<string>): string {
  const { base, call, ids, query, isStream } = called(whole);
  const { operation, body, headers } = whole;
  const head = `import os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${py(base)}, api_key=os.environ.get("${KEY}", "none"))\n\n`;
  const extra = Object.keys(headers).length ? [`extra_headers=${py(headers, 1)}`] : [];
  if (!call) {
    const options = Object.keys(query).length ? [`options={"params": ${py(query, 1)}}`] : [];
    const given = [py(filled(whole, base)), "cast_to=object", ...(body && !operation.isForm ? [`body=${py(body, 1)}`] : []), ...options];
    return `${head}answer = client.${operation.method.toLowerCase()}(${laid(given)})\nprint(answer)\n`;
  }
  const named = { ...query, ...body };
  const unknown = Object.keys(body ?? {}).filter((name) => call === "responses.create" && !sdkNames.has(name));
  const given = [
    ...ids.map((id) => py(id)),
    ...(operation.isForm ? [`${fileField(operation)}=open(${py(whole.file)}, "rb")`] : []),
    ...Object.entries(named)
      .filter(([name]) => !unknown.includes(name))
      .map(([name, value]) => `${name}=${py(value, 1)}`),
    ...(unknown.length ? [`extra_body=${py(Object.fromEntries(unknown.map((name) => [name, named[name]!])), 1)}`] : []),
    ...extra,
  ];
  const asked = `client.${call}(${laid(given)})`;
  if (isStream) return `${head}stream = ${asked}\nfor event in stream:\n    print(event)\n`;
  return `${head}answer = ${asked}\nprint(${call === "responses.create" ? "answer.output_text" : "answer"})\n`;
}

function filled(whole: Whole, base: string): string {
  const path = target({ operation: whole.operation, fields: Object.fromEntries(Object.entries(whole.fields).filter(([name]) => whole.operation.path.includes(`{${name}}`))) });
  const whereTo = whole.origin + path;
  return whereTo.startsWith(base) ? whereTo.slice(base.length) : whereTo;
}

function laid(given: string[]): string {
  const line = given.join(", ");
  return line.length <= 60 && !line.includes("\n") ? line : `\n${given.map((one) => `    ${one},\n`).join("")}`;
}

/** A value as Python writes it. */
function py(value: Json, depth = 0): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = Array.isArray(value) ? value.map((one) => py(one, depth + 1)) : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${py(one, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const line = `${open}${inner.join(", ")}${close}`;
  if (line.length <= 72 && !line.includes("\n")) return line;
  const pad = "    ".repeat(depth + 1);
  return `${open}\n${inner.map((one) => `${pad}${one},\n`).join("")}${"    ".repeat(depth)}${close}`;
}

function javascript(whole: Whole): string {
  const { base, call, ids, query, isStream } = called(whole);
  const { operation, body, headers } = whole;
  const files = call && operation.isForm ? `import fs from "node:fs";\n` : "";
  const head = `${files}import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: process.env.${KEY} ?? "none" });\n\n`;
  const options = Object.keys(headers).length ? [written({ headers })] : [];
  if (!call) {
    const more: JsonObject = { ...(Object.keys(query).length ? { query } : {}), ...(body && !operation.isForm ? { body } : {}), ...(options.length ? { headers } : {}) };
    const given = [JSON.stringify(filled(whole, base)), ...(Object.keys(more).length ? [written(more)] : [])];
    return `${head}const answer = await client.${operation.method.toLowerCase()}(${given.join(", ")});\nconsole.log(answer);\n`;
  }
  const named = { ...query, ...body };
  const file = operation.isForm ? `{\n  ${fileField(operation)}: fs.createReadStream(${JSON.stringify(whole.file)}),${written(named).slice(1)}` : "";
  const given = [...ids.map((id) => JSON.stringify(id)), ...(file ? [file] : Object.keys(named).length || options.length ? [written(named)] : []), ...options];
  const name = call.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
  const asked = `await client.${name}(${given.join(", ")});`;
  if (isStream) return `${head}const stream = ${asked}\nfor await (const event of stream) console.log(event);\n`;
  return `${head}const answer = ${asked}\nconsole.log(${call === "responses.create" ? "answer.output_text" : "answer"});\n`;
}

// -- workflow engines: one request, one whole answer

const CONNECT_MS = 5_000;
const ANSWER_MS = 600_000; // an answer of a slow model

function whole({ operation, origin, fields, body }: Whole): { url: string; body: JsonObject | null } {
  const { stream: _, starting_after: __, ...rest } = fields;
  const { stream_options: ___, ...asked } = body ?? {};
  const isMade = operation.id.startsWith("POST ") && operation.path.endsWith("/responses");
  return { url: origin + target({ operation, fields: rest }), body: body && isMade ? { ...asked, stream: false } : body };
}

/** An HTTP task of Conductor (conductor-oss.org). The key comes in with the workflow's input. */
function conductor(given: Whole): JsonObject {
  const { url, body } = whole(given);
  const name = `antiphon_${given.operation.id.toLowerCase().replace(/\{\w+\}|v1/g, "").replace(/\W+/g, "_").replace(/_+$/, "")}`;
  const key: Record<string, string> = given.operation.needsKey ? { Authorization: "Bearer ${workflow.input.antiphon_api_key}" } : {};
  return {
    name,
    taskReferenceName: `${name}_ref`,
    type: "HTTP",
    inputParameters: {
      http_request: {
        uri: url,
        method: given.operation.method,
        accept: "application/json",
        contentType: "application/json",
        headers: { ...key, ...given.headers },
        ...(body ? { body } : {}),
        connectionTimeOut: CONNECT_MS,
        readTimeOut: ANSWER_MS,
      },
    },
  };
}

function task(given: Whole): JsonObject {
  const { url, body } = whole(given);
  const key: Record<string, string> = given.operation.needsKey ? { Authorization: `Bearer \${${KEY}}` } : {};
  return {
    method: given.operation.method,
    url,
    headers: { ...key, Accept: "application/json", ...(body ? { "Content-Type": "application/json" } : {}), ...given.headers },
    ...(body ? { body } : {}),
    timeout_ms: ANSWER_MS,
  };
}
