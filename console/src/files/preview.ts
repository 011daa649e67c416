// What can be seen of a file, found out from its bytes.
import { ask, refused } from "../lib/api";
import type { StoredFile } from "./send";

export type Preview = { kind: "picture"; url: string } | { kind: "text"; text: string; isWhole: boolean } | { kind: "none"; why: string };

const PICTURE_BYTES_MAX = 20_000_000;
const TEXT_BYTES_MAX = 200_000;
const PICTURES: [type: string, magic: RegExp][] = [
  ["image/png", /^\x89PNG/],
  ["image/jpeg", /^\xff\xd8\xff/],
  ["image/gif", /^GIF8/],
  ["image/webp", /^RIFF....WEBP/s],
  ["image/bmp", /^BM.{4}\x00\x00\x00\x00/s],
];

/** The caller revokes the url of a picture. Throws ApiError. */
export async function preview(file: StoredFile, signal: AbortSignal): Promise<Preview> {
  if (!file.bytes) return { kind: "none", why: "It is empty." };
  const response = await ask(contentOf(file), { signal });
  if (!response.ok) throw await refused(response);
  const begin = await bytes(response.clone(), 16);
  const magic = String.fromCharCode(...begin.subarray(0, 16));
  const type = PICTURES.find(([, pattern]) => pattern.test(magic))?.[0];
  if (type) {
    if (file.bytes > PICTURE_BYTES_MAX) return { kind: "none", why: "The picture is too large to be shown here." };
    return { kind: "picture", url: URL.createObjectURL(new Blob([await response.arrayBuffer()], { type })) };
  }
  const text = textOf(await bytes(response, TEXT_BYTES_MAX));
  if (text === null) return { kind: "none", why: "No preview of this kind of file." };
  return { kind: "text", text, isWhole: file.bytes <= TEXT_BYTES_MAX };
}

export function contentOf(file: StoredFile): string {
  return `/v1/files/${encodeURIComponent(file.id)}/content`;
}

/** The first of them, and reads no further. */
async function bytes(response: Response, most: number): Promise<Uint8Array> {
  const reader = response.body!.getReader();
  const pieces: Uint8Array[] = [];
  let length = 0;
  while (length < most) {
    const { value, done } = await reader.read();
    if (done) break;
    pieces.push(value);
    length += value.length;
  }
  reader.cancel().catch(() => undefined);
  return new Uint8Array(await new Blob(pieces as BlobPart[]).arrayBuffer()).subarray(0, most);
}

function textOf(read: Uint8Array): string | null {
  if (read.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(read, { stream: true }); // may end within a character
  } catch {
    return null;
  }
}
