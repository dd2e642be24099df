// One message: its life, and why it does not run.
import { type Life, name as quoted, type Place, Refused, type Why } from "../api";
import { now } from "../live";
import { route, to } from "../route";
import { act, Act, Ago, At, Badge, Empty, Facts, Json, Loaded, Panel, sure, useAsked } from "../ui";
import { bytes, span } from "../words";
import { RunningStack } from "./processes";
import { Trail } from "./trail";

interface Moment {
  at: number | null;
  what: string;
  state: string;
  text?: string | null;
}

/** What has no time is the present: before what is due later, behind what was. */
function rank(moment: Moment): number {
  return moment.at ?? now.peek();
}

function momentsOf(life: Life): Moment[] {
  const found: Moment[] = [];
  for (const place of life.places) {
    if (place.sent_at) found.push({ at: place.sent_at, what: `Sent to ${place.queue}`, state: "sent" });
    if (place.state !== "dead" && place.error && !place.history?.length) found.push({ at: null, what: `Attempt ${place.attempt - 1} failed`, state: "dead", text: place.error });
    for (const [at, attempt, error] of place.history ?? []) found.push({ at, what: `Attempt ${attempt} failed`, state: "dead", text: error });
    const words: Record<string, string> = {
      delayed: place.due ? "Delayed until" : "Delayed",
      ready: "Ready",
      running: place.begun === false ? `Attempt ${place.attempt} waits for a slot of ${place.runs_on}` : `Attempt ${place.attempt} runs${place.runs_on ? ` on ${place.runs_on}` : ""}`,
      dead: `Dead: ${place.reason ?? "it failed"}`,
      done: "Done",
    };
    const at = place.state === "delayed" ? (place.due ?? null) : place.state === "dead" ? (place.died_at ?? null) : null;
    found.push({ at, what: words[place.state] ?? place.state, state: place.state, text: place.state === "dead" ? place.error : null });
  }
  for (const one of life.archived ?? []) found.push({ at: one.at, what: `Published to ${one.exchange} as ${one.routing_key}`, state: "ready", text: `archived as ${one.seq}` });
  const tracked = life.tracked;
  if (tracked && !life.places.some((place) => place.state === tracked.state))
    found.push({ at: null, what: tracked.merged_into ? `Merged into ${tracked.merged_into}` : tracked.state[0]!.toUpperCase() + tracked.state.slice(1), state: tracked.state, text: tracked.error });
  const seen = new Set<string>();
  return found
    .filter((one) => !seen.has(`${one.at} ${one.what}`) && seen.add(`${one.at} ${one.what}`))
    .sort((a, b) => rank(a) - rank(b));
}

function TimeLine({ life }: { life: Life }) {
  const moments = momentsOf(life);
  if (!moments.length) return <Empty title="Nothing is known of its life">What is done leaves no trace unless its result is kept.</Empty>;
  return (
    <ol class="line">
      {moments.map((one, index) => {
        const before = moments[index - 1]?.at;
        return (
          <li key={`${one.at} ${one.what}`} class={one.state}>
            <span class="what">{one.what}</span>
            <span class="dim num">
              {one.at ? <At at={one.at} /> : "now"}
              {one.at && before && one.at - before >= 0.001 ? ` · after ${span(one.at - before)}` : ""}
            </span>
            {one.text && <span class="text">{one.text}</span>}
          </li>
        );
      })}
    </ol>
  );
}

function Reasons({ why }: { why: Why[] }) {
  return (
    <ul class="why">
      {why.map((one) => (
        <li key={one.reason + one.text}>
          <strong>{one.reason.replaceAll("_", " ")}</strong>
          <span>
            {one.text}
            {one.until && (
              <>
                {" "}
                <span class="dim">
                  (until <At at={one.until} />, <Ago at={one.until} />)
                </span>
              </>
            )}
            {one.of && (
              <>
                {" "}
                <a class="mono" href={to("message", one.of)}>
                  {one.of}
                </a>
              </>
            )}
          </span>
        </li>
      ))}
    </ul>
  );
}

function Acts({ life, again }: { life: Life; again: () => void }) {
  const dead = life.places.find((place) => place.state === "dead" && place.number);
  const waits = life.places.some((place) => ["delayed", "ready", "running"].includes(place.state));
  const cancel = async () => {
    if (!(await sure("Cancel this message?", "What waits never runs; what runs is stopped where its handler can be.", "Cancel the message"))) return;
    await act<{ state: string }>(`messages/${quoted(life.id)}/cancel`, {}, (answer) => `It is ${answer.state}`);
    again();
  };
  return (
    <>
      {dead && (
        <a class="button" href={to("letters", String(dead.number))}>
          Retry or edit
        </a>
      )}
      {waits && (
        <Act tone="danger" run={cancel}>
          Cancel message
        </Act>
      )}
    </>
  );
}

function Body({ place }: { place: Place }) {
  const headers = Object.entries(place.headers ?? {});
  return (
    <Panel title={`Body${place.size ? `, ${bytes(place.size)}` : ""}`}>
      <Json value={place.body} label="Body" />
      {headers.length > 0 && (
        <>
          <h3>Headers</h3>
          <Facts facts={headers.map(([key, value]) => [key, <span class="mono">{String(value)}</span>])} />
        </>
      )}
    </Panel>
  );
}

export function Message() {
  const id = route.value.rest;
  const asked = useAsked<Life>(`messages/${quoted(id)}`, 3);
  if (!asked.data && asked.error instanceof Refused && asked.error.status === 404)
    return (
      <>
        <Panel title="Message">
          <Empty title="It is nowhere now">
            It has ended, or never was: what is done is forgotten, unless its result is kept. <span class="mono">{id}</span>
          </Empty>
        </Panel>
        <Trail id={id} />
      </>
    );
  return (
    <Loaded asked={asked}>
      {(life) => {
        const place = life.places[0];
        const why = life.places.flatMap((one) => one.why ?? []);
        const state = place?.state ?? life.tracked?.state;
        return (
          <>
            <div class="columns even">
              <div>
                <Panel title={place?.type ?? "Message"} aside={<>{state && <Badge state={state} />} <Acts life={life} again={asked.again} /></>}>
                  <p class="mono dim id">{id}</p>
                  {why.length > 0 && <Reasons why={why} />}
                  <Facts
                    facts={[
                      ["Queue", place && <a href={to("queues", place.queue)}>{place.queue}</a>],
                      ["Attempt", place && String(place.attempt)],
                      ["Priority", place?.priority ? String(place.priority) : null],
                      ["Key", place?.key && <span class="mono">{place.key}</span>],
                      ["Budget", place?.budget && <span class="mono">{place.budget}</span>],
                      ["Sent", place?.sent_at && <Ago at={place.sent_at} />],
                      [place?.begun === false ? "Waits in" : "Runs on", place?.runs_on],
                      ["Merged into", life.tracked?.merged_into && <a href={to("message", life.tracked.merged_into)}>{life.tracked.merged_into}</a>],
                    ]}
                  />
                </Panel>
                {life.places.map((one) => one.state === "running" && one.begun !== false && one.runs_on && <RunningStack key={one.queue} message={id} process={one.runs_on} />)}
                <Panel title="Its life">
                  <TimeLine life={life} />
                </Panel>
              </div>
              <div>
                {place && <Body place={place} />}
                {life.tracked?.progress ? (
                  <Panel title="Progress">
                    <Json value={life.tracked.progress} label="Progress" />
                  </Panel>
                ) : null}
                {life.tracked?.result !== undefined && life.tracked.result !== null && (
                  <Panel title="Result">
                    <Json value={life.tracked.result} label="Result" />
                  </Panel>
                )}
              </div>
            </div>
            <Trail id={id} />
          </>
        );
      }}
    </Loaded>
  );
}
