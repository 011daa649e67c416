// The pages, in the order of the navigation. To add one: a file, and a line here (see README.md). The file is loaded when
// the page is first opened, and gets the steps of the address behind the page's own: #/explorer/events/error -> ["events", "error"].
import type { Component } from "svelte";
import type { IconName } from "./ui/icons";

export type PageProps = { steps: string[] };
export type Page = { id: string; title: string; icon: IconName; load: () => Promise<{ default: Component<PageProps> }> };

export const PAGES: Page[] = [
  { id: "overview", title: "Overview", icon: "pulse", load: () => import("./overview/Overview.svelte") },
  { id: "explorer", title: "Explorer", icon: "compass", load: () => import("./explorer/Explorer.svelte") },
  { id: "playground", title: "Playground", icon: "chat", load: () => import("./playground/Playground.svelte") },
  { id: "responses", title: "Responses", icon: "list", load: () => import("./responses/Responses.svelte") },
  { id: "conversations", title: "Conversations", icon: "thread", load: () => import("./conversations/Conversations.svelte") },
  { id: "files", title: "Files", icon: "file", load: () => import("./files/Files.svelte") },
  { id: "keys", title: "Keys", icon: "key", load: () => import("./keys/Keys.svelte") },
];
/** Where one is who has not said where. */
export const START = PAGES.find(({ id }) => id === "explorer")!;
