// Ids of what was made in this window, so that the next request need not be told them.
import type { Json } from "../lib/api";
import { session } from "../lib/session.svelte";
import type { Operation } from "./catalogue";
import { isObject } from "./schema";

const FIELDS: Record<string, string> = { response: "response_id", conversation: "conversation_id", file: "file_id", upload: "upload_id" };
let latest: Record<string, string> = {};
session.leaving.push(() => (latest = {}));

/** Takes notice of what an answer made, or of one thing that it listed. */
export function notice(value: Json | undefined): void {
  if (!isObject(value) || typeof value["object"] !== "string") return;
  const field = FIELDS[value["object"]];
  if (field && typeof value["id"] === "string") latest[field] = value["id"];
  if (value["object"] === "list" && Array.isArray(value["data"])) notice(value["data"][0]);
}

export function seen(operation: Operation): Record<string, string> {
  const wanted = operation.parameters.filter((one) => one.in === "path" && latest[one.name]);
  return Object.fromEntries(wanted.map((one) => [one.name, latest[one.name]!]));
}
