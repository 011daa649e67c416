// Where the visitor is. The address lies behind the #, so that the server knows "/" alone: #/page/step/step?query.

class Route {
  steps: string[] = $state.raw(read());
  query = $state(queried());

  constructor() {
    addEventListener("hashchange", () => {
      this.steps = read();
      this.query = queried();
    });
  }

  get page(): string {
    return this.steps[0] ?? "";
  }
}

function read(): string[] {
  return location.hash.replace(/^#\/?|\?.*$/g, "").split("/").filter(Boolean).map(decoded);
}

function queried(): string {
  return location.hash.split("?").slice(1).join("?");
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
