// The pages, in the order of the navigation. To add one: a file, and a line here (see README.md). The file is loaded when
// the page is first opened, and gets the steps of the address behind the page's own: #/explorer/events/error -> ["events", "error"].
import type { Component } from "svelte";
import type { IconName } from "./ui/icons";

export type PageProps = { steps: string[] };
export type Page = { id: string; title: string; icon: IconName; load: () => Promise<{ default: Component<PageProps> }> };

export const PAGES: Page[] = [
  { id: "explorer", title: "Explorer", icon: "compass", load: () => import("./explorer/Explorer.svelte") },
  { id: "playground", title: "Playground", icon: "chat", load: () => import("./playground/Playground.svelte") },
  { id: "responses", title: "Responses", icon: "list", load: () => import("./responses/Responses.svelte") },
];
