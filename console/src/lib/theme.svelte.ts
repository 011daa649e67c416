// Light, dark, or as the system has it.
import { keep, kept } from "./kept";

export type Choice = "system" | "light" | "dark";
const CHOICES: Choice[] = ["system", "light", "dark"];

class Theme {
  choice: Choice = $state(CHOICES.find((one) => one === kept("theme")) ?? "system");

  constructor() {
    this.#show();
  }

  next(): void {
    this.choice = CHOICES[(CHOICES.indexOf(this.choice) + 1) % CHOICES.length]!;
    keep("theme", this.choice === "system" ? null : this.choice);
    this.#show();
  }

  #show(): void {
    const root = document.documentElement;
    if (this.choice === "system") delete root.dataset["theme"];
    else root.dataset["theme"] = this.choice;
  }
}

export const theme = new Theme();
