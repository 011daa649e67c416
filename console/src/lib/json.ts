// JSON as text: coloured, and where a text is none.
import type { Json } from "./api";

/** A piece of a JSON text, and what it is: key, string, number, word (true, false, null), or nothing of these. */
export type Token = { text: string; kind: "k" | "s" | "n" | "w" | "" };

const TOKEN = /("(?:[^"\\\n]|\\.)*"?)(\s*:)?|\b(?:true|false|null)\b|-?\d[\d.eE+-]*/g;

export function tokens(text: string): Token[] {
  const found: Token[] = [];
  let end = 0;
  for (const match of text.matchAll(TOKEN)) {
    if (match.index > end) found.push({ text: text.slice(end, match.index), kind: "" });
    const [whole, string, colon] = match;
    if (string) found.push({ text: string, kind: colon ? "k" : "s" });
    else found.push({ text: whole, kind: /^[tfn]/.test(whole) ? "w" : "n" });
    if (colon) found.push({ text: colon, kind: "" });
    end = match.index + whole.length;
  }
  if (end < text.length) found.push({ text: text.slice(end), kind: "" });
  return found;
}

export type Read = { value: Json; fault: null } | { value: null; fault: string; line: number };

/** The value of a JSON text, or why it is none, and in which line. */
export function read(text: string): Read {
  try {
    return { value: JSON.parse(text) as Json, fault: null };
  } catch (error) {
    const said = (error as Error).message;
    const place = /position (\d+)/.exec(said);
    const at = place ? Number(place[1]) : text.length;
    return { value: null, fault: said.replace(/ in JSON at position.*| \(line.*/, ""), line: text.slice(0, at).split("\n").length };
  }
}

export function written(value: unknown): string {
  return JSON.stringify(value, null, 2) ?? "";
}
