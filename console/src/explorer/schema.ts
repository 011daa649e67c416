// JSON Schema as /openapi.json has it: looked up, told in words, and values checked against it. Knows no operation.
import type { Json, JsonObject } from "../lib/api";

export type Schema = {
  $ref?: string;
  title?: string;
  description?: string;
  type?: string;
  enum?: Json[];
  const?: Json;
  default?: Json;
  anyOf?: Schema[];
  discriminator?: { propertyName: string; mapping: Record<string, string> };
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  additionalProperties?: Schema | boolean;
  format?: string;
  pattern?: string;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
  maxProperties?: number;
};
export type Components = Record<string, Schema>;

/** A schema without what stands around it: its alternatives, flat, without null, each followed to where it is described. */
export type Kinds = { kinds: Schema[]; isNullable: boolean; default: Json | undefined };

export function kindsOf(schema: Schema, all: Components): Kinds {
  const flat: Kinds = { kinds: [], isNullable: false, default: schema.default };
  for (const one of schema.anyOf ?? [schema]) {
    if (one.anyOf) {
      const inner = kindsOf(one, all);
      flat.kinds.push(...inner.kinds);
      flat.isNullable ||= inner.isNullable;
      flat.default ??= inner.default;
    } else if (one.type === "null") flat.isNullable = true;
    else {
      flat.kinds.push(one.$ref ? { ...all[nameOf(one.$ref)], title: nameOf(one.$ref) } : one);
      flat.default ??= one.default;
    }
  }
  return flat;
}

export function nameOf(ref: string): string {
  return ref.slice(ref.lastIndexOf("/") + 1);
}

const DEFAULT_CHARS_MAX = 40;

/** The default as JSON; empty where there is none, and where it is an object whose own fields say it. */
export function defaultOf(schema: Schema, all: Components): string {
  const text = JSON.stringify(kindsOf(schema, all).default ?? null);
  return text === "null" || text.length > DEFAULT_CHARS_MAX ? "" : text;
}

/** The word in `type` by which a kind of object is told from others. */
export function tagOf(schema: Schema): string | undefined {
  const type = schema.properties?.["type"];
  return type?.enum?.length === 1 ? String(type.enum[0]) : undefined;
}

const NAMED_MAX = 3;

/** In words, short: "string", "integer", "list of message, …", or values that it may have. */
export function words(schema: Schema, all: Components): string {
  const { kinds, isNullable } = kindsOf(schema, all);
  const told = [...new Set(kinds.map((kind) => one(kind, all)))];
  const shown = told.length > NAMED_MAX + 1 ? [...told.slice(0, NAMED_MAX), `${told.length - NAMED_MAX} more`] : told;
  return shown.join(" | ") + (isNullable && !told.length ? "null" : "");
}

function one(kind: Schema, all: Components): string {
  if (kind.enum) return kind.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (kind.const !== undefined) return JSON.stringify(kind.const);
  if (kind.type === "array") return kind.items && Object.keys(kind.items).length ? `list of ${words(kind.items, all)}` : "list";
  if (kind.type === "object") return tagOf(kind) ?? (kind.properties ? "object" : "map");
  return kind.format === "binary" ? "file" : (kind.type ?? "any");
}

/** What a value must keep to, beside its type. */
export function limits(schema: Schema, all: Components): string[] {
  return [...new Set(kindsOf(schema, all).kinds.flatMap(bounds))];
}

const HUGE = 2 ** 31 - 1;

function bounds(kind: Schema): string[] {
  const told: string[] = [];
  const { minimum: low, maximum: high } = kind;
  const isOpen = high === undefined || high >= HUGE;
  if (low !== undefined && !isOpen) told.push(`${low} to ${high}`);
  else if (low !== undefined && low > -HUGE) told.push(`at least ${low}`);
  else if (!isOpen) told.push(`at most ${high}`);
  if (kind.minLength) told.push(`at least ${kind.minLength} character${kind.minLength > 1 ? "s" : ""}`);
  if (kind.maxLength) told.push(`at most ${kind.maxLength} characters`);
  if (kind.minItems) told.push(`at least ${kind.minItems}`);
  if (kind.maxItems) told.push(`at most ${kind.maxItems}`);
  if (kind.maxProperties) told.push(`at most ${kind.maxProperties} pairs`);
  if (typeof kind.additionalProperties === "object" && kind.additionalProperties.maxLength) told.push(`values of at most ${kind.additionalProperties.maxLength} characters`);
  if (kind.pattern) told.push(`matches ${kind.pattern}`);
  return told;
}

/** The fields of a kind of object; of a list, those of what it holds. */
export type Inside = { tag: string; schema: Schema };

export function inside(schema: Schema, all: Components): Inside[] {
  return kindsOf(schema, all).kinds.flatMap((kind): Inside[] => {
    if (kind.type === "array" && kind.items) return inside(kind.items, all);
    return kind.properties ? [{ tag: tagOf(kind) ?? kind.title ?? "object", schema: kind }] : [];
  });
}

// -- checking a value

/** What is wrong with a value, and where. Not all that the server checks: what the types say. */
export type Fault = { path: string; text: string; isWarning: boolean };

export const NOT_KNOWN = "is not known";

export function faults(value: Json, schema: Schema, all: Components, path = ""): Fault[] {
  const { kinds, isNullable } = kindsOf(schema, all);
  if (value === null && (isNullable || !kinds.length)) return [];
  const tried = fitting(kinds, value).map((kind) => faultsOf(value, kind, all, path));
  if (tried.some((found) => found.length === 0)) return [];
  if (tried.length) return tried.reduce((best, found) => (found.length < best.length ? found : best));
  if (!kinds.length) return [];
  const tag = isObject(value) && typeof value["type"] === "string" ? `type "${value["type"]}"` : "";
  return [{ path, text: `expected ${words(schema, all)}${tag ? `, not ${tag}` : ""}`, isWarning: tag !== "" }];
}

/** The kinds that a value may be meant as: by its `type` where they have one, otherwise by what JSON it is. */
function fitting(kinds: Schema[], value: Json): Schema[] {
  const alike = kinds.filter((kind) => (kind.type ? isOfType(value, kind.type) : !isObject(value)));
  if (!isObject(value)) return alike;
  const tag = value["type"] ?? ("role" in value ? "message" : undefined);
  const tagged = alike.filter((kind) => tagOf(kind) === tag);
  return tagged.length ? tagged : alike.filter((kind) => !tagOf(kind));
}

function faultsOf(value: Json, kind: Schema, all: Components, path: string): Fault[] {
  const wrong = (text: string): Fault[] => [{ path, text, isWarning: false }];
  const wanted = kind.enum ?? (kind.const === undefined ? undefined : [kind.const]);
  if (wanted && !wanted.includes(value)) return wrong(`expected ${wanted.map((one) => JSON.stringify(one)).join(", ")}`);
  if (typeof value === "number") {
    if (kind.minimum !== undefined && value < kind.minimum) return wrong(`at least ${kind.minimum}`);
    if (kind.maximum !== undefined && value > kind.maximum) return wrong(`at most ${kind.maximum}`);
  }
  if (typeof value === "string") {
    if (kind.minLength !== undefined && value.length < kind.minLength) return wrong(`at least ${kind.minLength} characters`);
    if (kind.maxLength !== undefined && value.length > kind.maxLength) return wrong(`at most ${kind.maxLength} characters`);
  }
  if (Array.isArray(value)) {
    if (kind.minItems !== undefined && value.length < kind.minItems) return wrong(`at least ${kind.minItems}`);
    if (kind.maxItems !== undefined && value.length > kind.maxItems) return wrong(`at most ${kind.maxItems}`);
    return kind.items ? value.flatMap((one, index) => faults(one, kind.items!, all, `${path}[${index}]`)) : [];
  }
  return isObject(value) ? faultsIn(value, kind, all, path) : [];
}

function faultsIn(value: JsonObject, kind: Schema, all: Components, path: string): Fault[] {
  const at = (name: string) => (path ? `${path}.${name}` : name);
  const missing = (kind.required ?? []).filter((name) => !(name in value) && name !== "type");
  const found: Fault[] = missing.map((name) => ({ path: at(name), text: "is missing", isWarning: false }));
  const more = typeof kind.additionalProperties === "object" ? kind.additionalProperties : undefined;
  for (const [name, one] of Object.entries(value)) {
    const schema = kind.properties?.[name] ?? more;
    if (schema) found.push(...faults(one, schema, all, at(name)));
    else if (kind.properties) found.push({ path: at(name), text: NOT_KNOWN, isWarning: true });
  }
  return found;
}

function isOfType(value: Json, type: string): boolean {
  if (type === "integer") return Number.isInteger(value);
  if (type === "array") return Array.isArray(value);
  return type === "object" ? isObject(value) : typeof value === type;
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
