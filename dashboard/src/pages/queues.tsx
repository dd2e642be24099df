// All queues, live, each with what it does now and did in the last five minutes.
import { signal } from "@preact/signals";
import type { Host, Queue } from "../api";
import { name as quoted } from "../api";
import { curve, overview, rate } from "../live";
import { go, route, to } from "../route";
import { act, Act, Empty, Meter, Num, Rows, Search, Spark } from "../ui";
import { count, perSecond, plural, span } from "../words";

type Order = "name" | "ready" | "running" | "delayed" | "dead" | "rate" | "oldest";
const order = signal<Order>("name");

function serves(pattern: string, queue: string): boolean {
  const parts = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`).test(queue);
}

/** The slots of all processes that serve a queue. */
export function slotsOf(queue: string, hosts: Host[]): number {
  const pools = hosts.flatMap((host) => Object.values(host.pools)).filter((pool) => pool.queues.some((one) => serves(one, queue)) && !pool.exclude.some((one) => serves(one, queue)));
  return pools.reduce((sum, pool) => sum + pool.slots * pool.processes.length, 0);
}

export function Pause({ queue }: { queue: Queue }) {
  const said = queue.paused ? `${queue.name} goes on` : `${queue.name} is paused: what runs is finished, nothing new begins`;
  return (
    <Act label={`${queue.paused ? "Resume" : "Pause"} ${queue.name}`} run={() => act(`queues/${quoted(queue.name)}`, { paused: !queue.paused }, said)}>
      {queue.paused ? "Resume" : "Pause"}
    </Act>
  );
}

const BY: Record<Order, (queue: Queue) => number | string> = {
  name: (queue) => queue.name,
  ready: (queue) => -queue.ready,
  running: (queue) => -queue.running,
  delayed: (queue) => -queue.delayed,
  dead: (queue) => -queue.dead,
  rate: (queue) => -(rate(queue.name, "done") ?? 0),
  oldest: (queue) => -(queue.oldest ?? 0),
};

function Row({ queue, slots }: { queue: Queue; slots: number }) {
  const state = (one: "ready" | "running" | "delayed" | "dead") => (
    <span role="cell" class={`c-${one}`} data-label={one}>
      <Num value={queue[one]} state={one} about={queue.is_estimate && one === "ready"} />
    </span>
  );
  return (
    <>
      <span role="cell" class="c-name">
        <a href={to("queues", queue.name)} data-row title={queue.name}>
          {queue.name}
        </a>
        {queue.paused && <span class="badge paused">paused</span>}
        {!queue.consumers && queue.ready > 0 && !queue.paused && <span class="badge dead">no worker</span>}
      </span>
      {state("ready")}
      {state("running")}
      {state("delayed")}
      {state("dead")}
      <span role="cell" class="c-rate num" data-label="done/s">
        {perSecond(rate(queue.name, "done"))}
      </span>
      <span role="cell" class="c-oldest num" data-label="oldest">
        {queue.oldest === undefined ? <span class="dim">–</span> : span(queue.oldest)}
      </span>
      <span role="cell" class="c-use">
        <Meter used={queue.running} of={slots} label={`${queue.name}: slots in use of ${slots}`} />
      </span>
      <span role="cell" class="c-spark">
        <Spark points={curve(queue.name, queue.done === undefined ? "ready" : "done", 50)} label={`${queue.name}: last five minutes`} tone={queue.done === undefined ? "ready" : "done"} />
      </span>
      <span role="cell" class="c-act">
        <Pause queue={queue} />
      </span>
    </>
  );
}

const HEADS: [Order, string][] = [
  ["name", "Queue"],
  ["ready", "Ready"],
  ["running", "Running"],
  ["delayed", "Delayed"],
  ["dead", "Dead"],
  ["rate", "Done/s"],
  ["oldest", "Oldest"],
];

function Head() {
  return (
    <div role="row" class="row">
      {HEADS.map(([by, words]) => (
        <span role="columnheader" key={by} class={`c-${by}`} aria-sort={order.value === by ? (by === "name" ? "ascending" : "descending") : "none"}>
          <button type="button" class="plain" onClick={() => (order.value = by)}>
            {words}
            {order.value === by && <span aria-hidden="true"> {by === "name" ? "↑" : "↓"}</span>}
          </button>
        </span>
      ))}
      <span role="columnheader" class="c-use">
        In use
      </span>
      <span role="columnheader" class="c-spark">
        Last 5 min
      </span>
      <span role="columnheader" class="c-act">
        <span class="hidden">Act</span>
      </span>
    </div>
  );
}

export function Queues() {
  if (!overview.value) return <div class="empty loading" aria-busy="true">Connecting to the gateway…</div>;
  const { queues, hosts } = overview.value;
  const text = route.value.asked.get("text") ?? "";
  const by = BY[order.value];
  const compare = (a: Queue, b: Queue) => {
    const [left, right] = [by(a), by(b)];
    return typeof left === "string" ? left.localeCompare(String(right)) : left - Number(right) || a.name.localeCompare(b.name);
  };
  const shown = queues.filter((queue) => queue.name.includes(text)).sort(compare);
  const slots = new Map<string, number>();
  const slotsFor = (queue: string) => slots.get(queue) ?? slots.set(queue, slotsOf(queue, hosts)).get(queue)!;
  return (
    <section class="panel flush queues" aria-label="Queues">
      <header>
        <Search value={text} label="Find a queue" change={(words) => go(to("queues", "", { text: words }), true)} />
        <div class="aside dim">
          {shown.length === queues.length ? plural(queues.length, "queue") : `${count(shown.length)} of ${plural(queues.length, "queue")}`}
        </div>
      </header>
      {shown.length === 0 ? (
        <Empty title={text ? `No queue has “${text}” in its name` : "No queues yet"}>
          {text ? "Search for less of the name." : "They appear when a command, or an event that somebody handles, is declared."}
        </Empty>
      ) : (
        <Rows rows={shown} height={innerWidth < 760 ? 84 : 44} id={(queue) => queue.name} label="Queues" head={<Head />} row={(queue) => <Row queue={queue} slots={slotsFor(queue.name)} />} />
      )}
    </section>
  );
}
