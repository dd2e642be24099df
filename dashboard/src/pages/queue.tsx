// One queue: what it does now, what it did, who feeds it, and its messages.
import { signal } from "@preact/signals";
import { address, type Point, type Queue as Told } from "../api";
import { Chart } from "../chart";
import { type Count, curve, ending, filled, overview, rate, times } from "../live";
import { route, to } from "../route";
import { Empty, Facts, Loaded, Meter, Num, Panel, useAsked } from "../ui";
import { perSecond, plural, span } from "../words";
import { List } from "./messages";
import { Pause, slotsOf } from "./queues";

const STEPS = 60;
const PERIODS = { live: "5 minutes", hour: "hour", day: "day", week: "week", quarter: "90 days" } as const;
const period = signal<keyof typeof PERIODS>("live");

function Live({ queue }: { queue: Told }) {
  const at = times(STEPS);
  const minutes = useAsked<{ points: Point[] }>(address("history", { queue: queue.name, period: "hour" }), 60).data?.points;
  const points = (what: Count) => filled(curve(queue.name, what, STEPS), at, minutes, what);
  const counts = queue.done !== undefined;
  return (
    <Chart
      at={at}
      label={`${queue.name}, the last five minutes`}
      curves={
        counts
          ? [
              { label: "published/s", tone: "ready", points: points("published") },
              { label: "done/s", tone: "done", points: points("done") },
            ]
          : [{ label: "ready", tone: "ready", points: curve(queue.name, "ready", STEPS) }]
      }
    />
  );
}

function Past({ queue }: { queue: string }) {
  const asked = useAsked<{ step: number; points: Point[] }>(address("history", { queue, period: period.value }), 30);
  return (
    <Loaded asked={asked}>
      {({ step, points }) =>
        points.length < 2 ? (
          <Empty title="There is no history of this yet">It is written each minute while a gateway or a supervisor runs.</Empty>
        ) : (
          <Chart
            at={points.map((one) => one.at)}
            label={`${queue}, a ${PERIODS[period.value]}`}
            curves={[
              { label: "published/s", tone: "ready", points: points.map((one) => (one.published === null ? null : one.published / step)) },
              { label: "done/s", tone: "done", points: points.map((one) => (one.done === null ? null : one.done / step)) },
              { label: "dead/s", tone: "dead", points: points.map((one) => (one.died === null ? null : one.died / step)) },
            ]}
          />
        )
      }
    </Loaded>
  );
}

export function Queue() {
  const name = route.value.rest;
  if (!overview.value) return <div class="empty loading" aria-busy="true">Connecting to the gateway…</div>;
  const queue = overview.value.queues.find((one) => one.name === name);
  if (!queue)
    return (
      <Empty title={`There is no queue “${name}”`}>
        It may have been temporary. <a href={to("queues")}>All queues</a>
      </Empty>
    );
  const slots = slotsOf(name, overview.value.hosts);
  const [done, published] = [rate(name, "done"), rate(name, "published")];
  const ends = ending(queue.ready + queue.running, done, published);
  return (
    <>
      <div class="columns">
        <Panel
          title={name}
          aside={
            <div class="choice" role="group" aria-label="Period">
              {Object.entries(PERIODS).map(([key, words]) => (
                <button type="button" key={key} aria-pressed={period.value === key} onClick={() => (period.value = key as keyof typeof PERIODS)}>
                  {words}
                </button>
              ))}
            </div>
          }
        >
          {period.value === "live" ? <Live queue={queue} /> : <Past queue={name} />}
        </Panel>
        <Panel title="Now" aside={<>{queue.paused && <span class="badge paused">paused</span>}<Pause queue={queue} /></>}>
          <div class="states">
            {(["delayed", "ready", "running", "dead"] as const).map((state) => (
              <a key={state} href={to("queues", name, { state })} aria-current={route.value.asked.get("state") === state ? "true" : undefined}>
                <Num value={queue[state]} state={state} about={queue.is_estimate} />
                <span class="dim">{state}</span>
              </a>
            ))}
          </div>
          <Facts
            facts={[
              ["Rates", `${perSecond(published)}/s in, ${perSecond(done)}/s done`],
              ["Ends", queue.ready + queue.running === 0 ? "nothing waits" : ends === null ? (queue.ready ? "not at this rate" : "it keeps up") : `in about ${span(ends)}`],
              ["Oldest", queue.oldest === undefined ? "–" : span(queue.oldest)],
              [
                "In use",
                <span class="use">
                  <Meter used={queue.running} of={slots} label={`Slots in use of ${slots}`} /> {Math.min(queue.running, slots)} of {plural(slots, "slot")}
                </span>,
              ],
              ["Consumers", queue.consumers ? String(queue.consumers) : <span class="dead">none: nothing takes from this queue</span>],
              ["Declared by", queue.origin],
              [
                "Bound to",
                queue.bindings.length
                  ? queue.bindings.map(([exchange, key]) => (
                      <div key={exchange + key}>
                        <a href={to("exchanges")}>{exchange || "default"}</a> <span class="mono">{key}</span>
                      </div>
                    ))
                  : null,
              ],
            ]}
          />
        </Panel>
      </div>
      <List queue={name} />
    </>
  );
}
