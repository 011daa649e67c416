// A file on its way to the server, and how far it is.
import { ApiError } from "../lib/api";
import { session } from "../lib/session.svelte";

export type StoredFile = { id: string; bytes: number; created_at: number; expires_at: number | null; filename: string; purpose: string };
export const PURPOSES = ["user_data", "assistants", "vision", "batch", "fine-tune", "evals"];
export const LIVES: [seconds: number, title: string][] = [
  [0, "until it is deleted"],
  [3_600, "for an hour"],
  [86_400, "for a day"],
  [604_800, "for a week"],
  [2_592_000, "for 30 days"],
];

export type Sending = { file: File; purpose: string; seconds: number };

/** With a progress of 0 to 1, which `fetch` cannot tell of what it sends. Throws ApiError; an aborted one is of status 0. */
export async function send(sending: Sending, onprogress: (share: number) => void, signal: AbortSignal): Promise<StoredFile> {
  for (;;) {
    const { status, text } = await sent(sending, onprogress, signal);
    if (status === 200) return JSON.parse(text) as StoredFile;
    if (status !== 401 || !(await session.askForKey(session.key ? "The server does not take this key." : ""))) throw refusal(status, text);
  }
}

function sent({ file, purpose, seconds }: Sending, onprogress: (share: number) => void, signal: AbortSignal): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("purpose", purpose);
    if (seconds) {
      form.append("expires_after[anchor]", "created_at");
      form.append("expires_after[seconds]", String(seconds));
    }
    form.append("file", file, file.name);
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/files");
    if (session.key) request.setRequestHeader("authorization", `Bearer ${session.key}`);
    request.upload.onprogress = (event) => event.lengthComputable && onprogress(event.loaded / event.total);
    request.onload = () => resolve({ status: request.status, text: request.responseText });
    request.onerror = () => reject(new ApiError("The connection broke.", 0));
    request.onabort = () => reject(new ApiError("It was stopped.", 0));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

function refusal(status: number, text: string): ApiError {
  try {
    const { error } = JSON.parse(text);
    return new ApiError(error.message, status, error.code, error.param);
  } catch {
    return new ApiError(text.slice(0, 300) || `The server answered ${status}.`, status);
  }
}
