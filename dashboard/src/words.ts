// Numbers, ages and times as people read them.
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export function count(value: number): string {
  return value < 100_000 ? NUMBER.format(value) : SHORT.format(value);
}

export function perSecond(value: number | null): string {
  if (value === null) return "–";
  return value >= 100 ? count(value) : value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

export function span(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return seconds < 0.001 ? "0 s" : `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const [size, unit, part, smaller] = seconds < 3600 ? ([60, "min", 1, "s"] as const) : seconds < 86400 ? ([3600, "h", 60, "min"] as const) : ([86400, "d", 3600, "h"] as const);
  const rest = Math.floor((seconds % size) / part);
  return `${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
}

/** A span in its largest unit alone, where there is little room. */
export function about(seconds: number): string {
  return seconds < 60 ? span(seconds) : span(seconds).split(" ").slice(0, 2).join(" ");
}

export function clock(at: number): string {
  const date = new Date(at * 1000);
  return Math.abs(Date.now() - date.getTime()) < 12 * 3600_000 ? CLOCK.format(date) : DAY.format(date);
}

export function exact(at: number): string {
  return new Date(at * 1000).toISOString();
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value < 1024) return `${value} B`;
  if (value < 1024 ** 2) return `${(value / 1024).toFixed(0)} KiB`;
  return value < 1024 ** 3 ? `${(value / 1024 ** 2).toFixed(0)} MiB` : `${(value / 1024 ** 3).toFixed(1)} GiB`;
}

export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** Return a number, a list or words as they are typed: JSON where it is JSON, else the text itself. */
export function typed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
