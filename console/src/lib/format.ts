// Numbers, sizes and times, as people read them.

const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const WHOLE = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const MOMENT = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const EXACT_MAX = 10_000;

/** 9,412 · 48.2K */
export function count(value: number): string {
  return value < EXACT_MAX ? WHOLE.format(value) : SHORT.format(value);
}

export function spent(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${Number(ms.toFixed(1))} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 100_000 ? `${Number((ms / 1000).toFixed(ms < 10_000 ? 2 : 1))} s` : `${Math.round(ms / 1000)} s`;
}

export function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${Number((bytes / 1e3).toFixed(1))} kB`;
  return bytes < 1e9 ? `${Number((bytes / 1e6).toFixed(1))} MB` : `${Number((bytes / 1e9).toFixed(2))} GB`;
}

/** Times in Unix seconds. */
export const clock = (seconds: number): string => CLOCK.format(seconds * 1000);
export const day = (seconds: number): string => DAY.format(seconds * 1000);
export const moment = (seconds: number): string => MOMENT.format(seconds * 1000);

const UNITS: [seconds: number, name: string][] = [
  [86_400, "day"],
  [3_600, "hour"],
  [60, "minute"],
];

/** "3 hours ago", "in 2 days"; beyond a month the date. */
export function ago(seconds: number, now = Date.now() / 1000): string {
  const away = seconds - now;
  if (Math.abs(away) > 30 * 86_400) return moment(seconds);
  const [unit, name] = UNITS.find(([one]) => Math.abs(away) >= one) ?? [];
  if (!unit) return away > 0 ? "in a moment" : "just now";
  const many = Math.round(Math.abs(away) / unit);
  const told = `${many} ${name}${many === 1 ? "" : "s"}`;
  return away > 0 ? `in ${told}` : `${told} ago`;
}
