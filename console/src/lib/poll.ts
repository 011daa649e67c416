// Looking again and again, while somebody looks at the page.

/** Looks now, then `everyMs` after each look, as long as the page is in sight; a look that gives false was the last. Gives what ends it. */
export function poll(look: (signal: AbortSignal) => Promise<boolean>, everyMs: number): () => void {
  const stop = new AbortController();
  const { signal } = stop;
  async function run(): Promise<void> {
    while (!signal.aborted) {
      if (document.hidden) await next(document, "visibilitychange", signal);
      else {
        if (!(await look(signal))) return;
        await pause(everyMs, signal);
      }
    }
  }
  run();
  return () => stop.abort();
}

function next(target: EventTarget, name: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    target.addEventListener(name, () => resolve(), { once: true, signal });
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(over, ms);
    signal.addEventListener("abort", over, { once: true });
    function over(): void {
      clearTimeout(timer);
      signal.removeEventListener("abort", over);
      resolve();
    }
  });
}
