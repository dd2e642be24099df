// What the gateway tells of everything, live: the newest overview, and the last five minutes of each queue.
import { computed, signal } from "@preact/signals";
import { ask, entered, locked, type Me, type Overview, get, type Point, type Queue } from "./api";

export const SPAN = 300; // seconds that are kept
const RATE = 10; // seconds over which a rate is told
const QUIET = 45_000; // ms without a word
const FIRST = 500; // ms before another try, doubled up to LONGEST, each between half and whole
const LONGEST = 5_000;

export const overview = signal<Overview | null>(null);
export const link = signal<"connecting" | "live" | "lost">("connecting");
export const refusal = signal<string>("");
/** The time of the gateway, each second. */
export const now = signal(Date.now() / 1000);
export const me = signal<Me>({ name: "", permissions: ["read", "logs", "act", "admin"] });
export const mayAct = computed(() => me.value.permissions.includes("act"));

export interface Sample {
  at: number;
  queue: Queue;
}

const past = new Map<string, Sample[]>();
let ahead = 0;

/** The name under which all queues together are kept. */
export const ALL = "";

function sum(queues: Queue[]): Queue {
  const all: Queue = { ...NONE };
  for (const queue of queues) {
    for (const state of ["ready", "running", "delayed", "dead"] as const) all[state] += queue[state];
    for (const what of ["published", "done", "died", "retried"] as const)
      if (queue[what] !== undefined) all[what] = (all[what] ?? 0) + queue[what];
    if (queue.oldest !== undefined) all.oldest = Math.max(all.oldest ?? 0, queue.oldest);
  }
  return all;
}

/** All queues together, as they were told last. */
export const all = computed(() => (overview.value ? sum(overview.value.queues) : null));

const NONE: Queue = { name: ALL, bindings: [], origin: "", ready: 0, running: 0, delayed: 0, dead: 0, consumers: 0 };

/** The name under which an exchange is kept, whose deliveries count as done: no queue has one with a slash at its beginning and end. */
export function exchanged(name: string): string {
  return `/${name}/`;
}

function hear(next: Overview): void {
  ahead = next.now - Date.now() / 1000;
  const exchanges = Object.entries(next.passed ?? {}).map(([name, [published, done]]): Queue => ({ ...NONE, name: exchanged(name), published, done }));
  for (const queue of [...next.queues, ...exchanges, sum(next.queues)]) {
    const samples = past.get(queue.name) ?? [];
    past.set(queue.name, samples);
    samples.push({ at: next.now, queue });
    while (samples.length > 2 && samples[1]!.at < next.now - SPAN) samples.shift();
  }
  const names = new Set([...next.queues, ...exchanges].map((queue) => queue.name));
  for (const known of past.keys()) if (known !== ALL && !names.has(known)) past.delete(known);
  now.value = next.now;
  overview.value = next;
  link.value = "live";
}

/** Return the newest sample of a queue that is not younger than a time; the stream is silent while nothing changes. */
function sampleAt(samples: Sample[], at: number): Sample | undefined {
  for (let index = samples.length - 1; index >= 0; index--) if (samples[index]!.at <= at) return samples[index];
  return undefined;
}

export type Count = "published" | "done" | "died" | "retried";

/** How many a second were published or done, or null where that is not counted, or not known yet. */
export function rate(name: string, what: Count): number | null {
  const samples = past.get(name);
  const newest = samples?.at(-1);
  if (!samples || !newest || newest.queue[what] === undefined) return null;
  const from = sampleAt(samples, now.value - RATE) ?? samples[0]!;
  const seconds = Math.min(RATE, now.value - from.at);
  if (seconds < 1) return null;
  return Math.max(0, newest.queue[what]! - (from.queue[what] ?? 0)) / seconds;
}

/** Return points of the last five minutes of a queue: a number for each step, null where nothing is known. */
export function curve(name: string, what: Count | "ready", steps: number): (number | null)[] {
  const step = SPAN / steps;
  const samples = past.get(name) ?? [];
  return times(steps).map((at) => {
    const until = sampleAt(samples, at);
    if (what === "ready") return until?.queue.ready ?? null;
    const before = sampleAt(samples, at - step);
    if (!until || !before || until.queue[what] === undefined) return null;
    return Math.max(0, until.queue[what] - (before.queue[what] ?? 0)) / step;
  });
}

/** Fill what this page has not seen itself with what the minutes of the history say. */
export function filled(points: (number | null)[], at: number[], minutes: Point[] | undefined, what: Count): (number | null)[] {
  if (!minutes?.length) return points;
  return points.map((point, index) => {
    if (point !== null) return point;
    const minute = minutes.findLast((one) => one.at <= at[index]! && at[index]! < one.at + 60);
    return minute?.[what] == null ? null : minute[what] / 60;
  });
}

/** Return the times of the points of a curve. */
export function times(steps: number): number[] {
  const step = SPAN / steps;
  const end = Math.floor(now.value / step) * step;
  return Array.from({ length: steps }, (_, index) => end - (steps - 1 - index) * step);
}

/** Return when all that waits is done at the rate of now, in seconds, or null where it never is, or is not known. */
export function ending(left: number, done: number | null, published: number | null): number | null {
  const net = (done ?? 0) - (published ?? 0);
  return left === 0 ? 0 : net > 0.01 ? left / net : null;
}

async function listen(heard: () => void, stop: AbortController): Promise<void> {
  const response = await ask("changes", { headers: { Accept: "text/event-stream" }, signal: stop.signal });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    rest += value.replaceAll("\r", "");
    const events = rest.split("\n\n");
    rest = events.pop()!;
    for (const event of events) {
      const lines = event.split("\n");
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      const kind = lines.find((line) => line.startsWith("event:"))?.slice(6).trim();
      if (kind === "overview") hear(JSON.parse(data.join("\n")) as Overview);
      else if (kind === "lost") {
        refusal.value = (JSON.parse(data.join("\n")) as { error: string }).error;
        link.value = "lost";
      }
    }
  }
}

/** Follow the gateway for ever: what is lost is connected again. */
export function follow(): void {
  let running = new AbortController();
  let wake: (() => void) | null = null;
  setInterval(() => (now.value = Date.now() / 1000 + ahead), 1000);
  entered.subscribe(() => wake?.());
  addEventListener("online", () => wake?.());
  void (async () => {
    for (let tries = 0; ; tries++) {
      running = new AbortController();
      let watch = 0;
      const heard = () => {
        clearTimeout(watch);
        watch = window.setTimeout(() => running.abort(), QUIET);
        tries = 0;
      };
      heard();
      try {
        me.value = await get<Me>("me").catch((error: unknown) => {
          if (locked.value) throw error;
          return me.value;
        });
        if (!overview.value) hear(await get<Overview>("overview"));
        await listen(heard, running);
      } catch (error) {
        refusal.value = error instanceof Error ? error.message : String(error);
      }
      clearTimeout(watch);
      link.value = overview.value ? "lost" : "connecting";
      const pause = Math.min(LONGEST, FIRST * 2 ** Math.min(tries, 6)) * (0.5 + Math.random() / 2);
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (!locked.value) setTimeout(resolve, pause);
      });
      wake = null;
    }
  })();
}
