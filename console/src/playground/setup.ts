// What turns are asked with: model, instructions, parameters, tools, the form of the answer. As it is edited, and as a request.
import type { Json, JsonObject } from "../lib/api";
import { read } from "../lib/json";
import { keep, kept } from "../lib/kept";

export type FunctionDraft = { name: string; description: string; parameters: string; isStrict: boolean };
export type ServerDraft = { label: string; url: string; approval: "always" | "never" };
/** Numbers are texts here, since a field may be empty. */
export type Setup = {
  model: string;
  instructions: string;
  temperature: string;
  top_p: string;
  max_output_tokens: string;
  effort: string;
  summary: string;
  functions: FunctionDraft[];
  servers: ServerDraft[];
  searchesWeb: boolean;
  moreTools: string;
  isStructured: boolean;
  schemaName: string;
  schema: string;
};
export type Fault = { path: string; text: string };

export const EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh"];
export const SUMMARIES = ["auto", "concise", "detailed"];
const NUMBERS = ["temperature", "top_p", "max_output_tokens"] as const;

export const NEW_FUNCTION: FunctionDraft = {
  name: "get_weather",
  description: "The weather in a city.",
  parameters: JSON.stringify({ type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false }, null, 2),
  isStrict: true,
};
const BLANK: Setup = {
  model: "",
  instructions: "",
  temperature: "",
  top_p: "",
  max_output_tokens: "",
  effort: "",
  summary: "",
  functions: [],
  servers: [],
  searchesWeb: false,
  moreTools: "",
  isStructured: false,
  schemaName: "answer",
  schema: JSON.stringify({ type: "object", properties: { answer: { type: "string" } }, required: ["answer"], additionalProperties: false }, null, 2),
};

export function keptSetup(): Setup {
  const known = read(kept("setup") ?? "{}").value as Partial<Setup> | null;
  return { ...BLANK, ...known };
}

export function keepSetup(setup: Setup): void {
  keep("setup", JSON.stringify(setup));
}

/** The body of a request without what is said in it, and what is wrong with the setup. */
export function requestOf(setup: Setup): { body: JsonObject; faults: Fault[] } {
  const faults: Fault[] = [];
  const parsed = (text: string, path: string): Json => {
    const found = read(text);
    if (found.fault !== null) faults.push({ path, text: `line ${found.line}: ${found.fault}` });
    return found.value;
  };
  const body: JsonObject = { model: setup.model };
  if (setup.instructions.trim()) body["instructions"] = setup.instructions;
  for (const name of NUMBERS) {
    const text = String(setup[name] ?? "").trim(); // a field of numbers gives numbers
    if (text) body[name] = Number(text);
  }
  if (setup.effort || setup.summary) body["reasoning"] = { ...(setup.effort && { effort: setup.effort }), ...(setup.summary && { summary: setup.summary }) };
  const tools: Json[] = setup.functions.map(({ name, description, parameters, isStrict }) => ({
    type: "function",
    name,
    ...(description.trim() && { description }),
    parameters: parsed(parameters, `function ${name}`),
    strict: isStrict,
  }));
  if (setup.searchesWeb) tools.push({ type: "web_search" });
  for (const { label, url, approval } of setup.servers) tools.push({ type: "mcp", server_label: label, ...(url.trim() && { server_url: url.trim() }), require_approval: approval });
  if (setup.moreTools.trim()) {
    const more = parsed(setup.moreTools, "more tools");
    tools.push(...(Array.isArray(more) ? more : more === null ? [] : [more]));
  }
  if (tools.length) body["tools"] = tools;
  if (setup.isStructured) body["text"] = { format: { type: "json_schema", name: setup.schemaName, strict: true, schema: parsed(setup.schema, "schema") } };
  return { body, faults };
}
