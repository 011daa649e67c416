// Short messages at the edge of the window. Errors stay until they are read, or the page is left; the rest goes by itself.

export type Toast = { id: number; text: string; detail: string; isError: boolean };
const SHOWN_MS = 4000;
const AT_ONCE_MAX = 4;

class Toasts {
  all: Toast[] = $state([]);
  #next = 0;

  say(text: string): void {
    const id = this.#add({ text, detail: "", isError: false });
    setTimeout(() => this.close(id), SHOWN_MS);
  }

  fail(error: unknown, detail = ""): void {
    this.#add({ text: error instanceof Error ? error.message : String(error), detail, isError: true });
  }

  close(id: number): void {
    this.all = this.all.filter((toast) => toast.id !== id);
  }

  leave(): void {
    this.all = this.all.filter((toast) => !toast.isError);
  }

  #add(toast: Omit<Toast, "id">): number {
    const id = this.#next++;
    this.all = [...this.all, { id, ...toast }].slice(-AT_ONCE_MAX);
    return id;
  }
}

export const toasts = new Toasts();
