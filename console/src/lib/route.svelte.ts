// Where the visitor is. The address lies behind the #, so that the server knows "/" alone: #/page/step/step.

class Route {
  steps: string[] = $state.raw(read());

  constructor() {
    addEventListener("hashchange", () => (this.steps = read()));
  }

  get page(): string {
    return this.steps[0] ?? "";
  }
}

function read(): string[] {
  return location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decoded);
}

function decoded(step: string): string {
  try {
    return decodeURIComponent(step);
  } catch {
    return step;
  }
}

export const route = new Route();

export function address(...steps: string[]): string {
  return "#/" + steps.map(encodeURIComponent).join("/");
}

export function go(...steps: string[]): void {
  location.hash = address(...steps);
}
