// Checks: what a script tries with its client, each reported as one line of JSON on stdout. Knows no client.
//
// {"check": its name, "error": null | what was wrong}; tests/clients/conftest.py reads the names from the script and the lines
// from its output.

const WAIT_MS = 10_000;
const checks = [];

export const [, , url] = process.argv;
export const model = "scripted";
export const knownModel = "gpt-5.5"; // the scripted model too, by a name from which clients conclude what it can do

export function check(name, attempt) {
  checks.push([name, attempt]);
}

export async function run() {
  for (const [name, attempt] of checks) {
    const error = await failure(attempt);
    process.stdout.write(JSON.stringify({ check: name, error }) + "\n");
  }
  process.exit(0); // whatever a failed check left open
}

async function failure(attempt) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end after ${WAIT_MS} ms`)), WAIT_MS);
  });
  try {
    await Promise.race([attempt(), late]);
    return null;
  } catch (error) {
    return String(error?.stack ?? error);
  } finally {
    clearTimeout(timer);
  }
}

export async function gathered(stream) {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
}
