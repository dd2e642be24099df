// What fails, by cause: since when, how often, and what is done about it.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { address, type Group, type Letter, name as quoted, post } from "../api";
import { mayAct, now } from "../live";
import { go, route, to } from "../route";
import { act, Act, Ago, At, Badge, Bars, Empty, Facts, Loaded, Panel, sure, tell, useAsked } from "../ui";
import { count, plural, typed } from "../words";
import { Pages } from "./messages";

const STATES = ["open", "resolved", "ignored", "all"] as const;
const HOURS = 7 * 24;
const EACH = 6;

function weekOf(group: Group): number[] {
  const hours = new Array<number>(HOURS / EACH).fill(0);
  for (const [at, died] of group.occurrences) {
    const index = hours.length - 1 - Math.floor((now.value - at) / 3600 / EACH);
    if (index >= 0 && index < hours.length) hours[index]! += died;
  }
  return hours;
}

function Line({ group }: { group: Group }) {
  return (
    <tr>
      <td class="main two">
        <a href={to("failures", group.fingerprint)} data-row>
          {group.error.split("\n")[0] || "No error was told"}
        </a>
        <span class="dim">
          {group.type} in {group.queue}
          {group.place ? <span class="mono"> {group.place}</span> : null}
        </span>
      </td>
      <td class="spark-cell wide">
        <Bars counts={weekOf(group)} label={`${group.count} died, by six hours of the last week`} />
      </td>
      <td class="r num">
        {group.count ? <strong class={group.state === "open" ? "dead" : ""}>{count(group.count)}</strong> : <span class="zero">0</span>}
      </td>
      <td class="r num">{group.waiting ? <span class="delayed">{count(group.waiting)}</span> : <span class="zero">0</span>}</td>
      <td class="num wide">
        <Ago at={group.first_at} />
      </td>
      <td class="num">
        <Ago at={group.last_at} />
      </td>
      <td class="wide">
        <Badge state={group.state} />
      </td>
    </tr>
  );
}

export function Failures() {
  const state = route.value.asked.get("state") ?? "open";
  const asked = useAsked<{ groups: Group[]; is_whole?: boolean }>(address("failures", { state }), 3);
  return (
    <section class="panel flush" aria-label="Failures">
      <header>
        <div class="choice" role="group" aria-label="State">
          {STATES.map((one) => (
            <button type="button" key={one} aria-pressed={state === one} onClick={() => go(to("failures", "", { state: one }), true)}>
              {one}
            </button>
          ))}
        </div>
        {asked.data?.is_whole === false && <span class="dim">still reading the dead letters…</span>}
      </header>
      <Loaded asked={asked}>
        {({ groups }) =>
          groups.length === 0 ? (
            <Empty title={state === "open" ? "Nothing fails" : `No failure is ${state === "all" ? "known" : state}`}>
              {state === "open" ? "What fails is grouped here by its cause, dead or waiting for another attempt: the type, the handler, the error and the place in the code." : undefined}
            </Empty>
          ) : (
            <table>
              <thead>
                <tr>
                  <th scope="col">Cause</th>
                  <th scope="col" class="wide">Last week</th>
                  <th scope="col" class="r">Dead</th>
                  <th scope="col" class="r">Retried</th>
                  <th scope="col" class="wide">First</th>
                  <th scope="col">Last</th>
                  <th scope="col" class="wide">State</th>
                </tr>
              </thead>
              <tbody>
                {[...groups]
                  .sort((a, b) => b.last_at - a.last_at)
                  .map((group) => (
                    <Line key={group.fingerprint} group={group} />
                  ))}
              </tbody>
            </table>
          )
        }
      </Loaded>
    </section>
  );
}

interface Acted {
  done: number;
  left: number;
  refused?: string[];
  cursor?: string | null;
}

/** Act on all letters of a cause or a batch, part by part, and tell how many are done and left. */
async function onAll(path: string, asked: Record<string, unknown>, told: (left: [done: number, left: number]) => void): Promise<void> {
  let [done, refused] = [0, 0];
  let cursor: string | null = null;
  try {
    do {
      const answer: Acted = await post<Acted>(path, { ...asked, ...(cursor ? { cursor } : {}) });
      done += answer.done;
      refused += answer.refused?.length ?? 0;
      cursor = answer.left ? (answer.cursor ?? null) : null;
      told([done, answer.left]);
      if (answer.refused?.length) tell(answer.refused[0]!, true);
    } while (cursor);
    tell(`${plural(done, "dead letter")} ${asked.action === "retry" ? "are ready again" : "are discarded"}${refused ? ", some were refused" : ""}`);
  } catch (error) {
    tell(error instanceof Error ? error.message : String(error), true);
  }
}

/** Act on all letters of a path, and how far that is. */
export function useBulk(path: string, again: () => void): { run: (asked: Record<string, unknown>) => Promise<void>; shown: ComponentChildren } {
  const [at, setAt] = useState<[number, number] | null>(null);
  const run = async (asked: Record<string, unknown>) => {
    setAt([0, 0]);
    await onAll(path, asked, setAt);
    setAt(null);
    again();
  };
  const shown = at && (
    <div class="far" role="status">
      <progress aria-label="Dead letters done" max={at[0] + at[1] || 1} value={at[0] + at[1] ? at[0] : undefined} />
      <span class="num">{at[0] + at[1] ? `${count(at[0])} of ${count(at[0] + at[1])}` : "Begun…"}</span>
    </div>
  );
  return { run, shown };
}

function Bulk({ group, again }: { group: Group; again: () => void }) {
  const [field, setField] = useState("");
  const [value, setValue] = useState("");
  const none = group.count === 0;
  const { run, shown } = useBulk(`failures/${quoted(group.fingerprint)}`, again);
  const discard = async () => {
    const text = `${plural(group.count, "dead letter")} of this cause are deleted. This cannot be undone.`;
    if (await sure("Discard all of them?", text, `Discard ${count(group.count)}`)) await run({ action: "discard" });
  };
  const say = (action: string, words: string) => async () => {
    await act(`failures/${quoted(group.fingerprint)}`, { action }, words);
    again();
  };
  return (
    <div class="bulk">
      <fieldset disabled={!mayAct.value}>
        <legend>Retry with another value of a field, or as they are</legend>
        <input aria-label="Field" placeholder="field" class="mono" value={field} onInput={(event) => setField(event.currentTarget.value.trim())} />
        <input aria-label="Value" placeholder="value" class="mono" value={value} onInput={(event) => setValue(event.currentTarget.value)} />
        <Act tone="primary" disabled={none} run={() => run({ action: "retry", ...(field ? { edit: { [field]: typed(value) } } : {}) })}>
          {field ? `Edit and retry ${count(group.count)}` : `Retry ${count(group.count)}`}
        </Act>
      </fieldset>
      <div class="buttons">
        {group.state === "open" ? (
          <>
            <Act run={say("resolve", "It is resolved: it opens again when another one dies of it")}>Resolve</Act>
            <Act run={say("ignore", "It is ignored: it stays so when others die of it")}>Ignore</Act>
          </>
        ) : (
          <Act run={say("reopen", "It is open again")}>Reopen</Act>
        )}
        <Act tone="danger" disabled={none} run={discard}>
          Discard all
        </Act>
      </div>
      {shown}
    </div>
  );
}

/** Dead letters, without the error that is known of all. */
export function Letters({ letters, known }: { letters: Letter[]; known?: string }) {
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">Message</th>
          <th scope="col" class="wide">Why it is dead</th>
          <th scope="col" class="r wide">Attempts</th>
          <th scope="col">Died</th>
        </tr>
      </thead>
      <tbody>
        {letters.map((one) => (
          <tr key={one.number}>
            <td class="main two">
              <a class="mono" href={to("letters", String(one.number))} data-row>
                {one.id}
              </a>
              {one.error !== known && one.error !== one.reason && <span class="dim">{one.error}</span>}
            </td>
            <td class="wide">{one.reason}</td>
            <td class="r num wide">{one.attempts}</td>
            <td class="num">
              <At at={one.died_at} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function Failure() {
  const fingerprint = route.value.rest;
  const [cursors, setCursors] = useState<string[]>([]);
  const asked = useAsked<{ group: Group; letters: Letter[]; cursor: string | null }>(
    address(`failures/${quoted(fingerprint)}`, { cursor: cursors.at(-1), limit: 25 }),
    5,
  );
  if (!asked.data && asked.error)
    return (
      <Empty title="Nothing is dead of this cause any more">
        All were retried or discarded. <a href={to("failures")}>All failures</a>
      </Empty>
    );
  return (
    <Loaded asked={asked}>
      {({ group, letters, cursor }) => (
        <>
          <Panel title={group.error.split("\n")[0] || "No error was told"} aside={<Badge state={group.state} />}>
            <Facts
              two
              facts={[
                ["Message", group.type],
                ["Queue", <a href={to("queues", group.queue)}>{group.queue}</a>],
                ["Handler", group.handler],
                ["Place", group.place && <span class="mono">{group.place}</span>],
                ["Dead", <strong class="dead">{count(group.count)}</strong>],
                ["Waiting", group.waiting ? <a href={to("messages", "", { queue: group.queue, type: group.type, state: "delayed" })}>{plural(group.waiting, "message")} for another attempt</a> : null],
                ["First", <Ago at={group.first_at} />],
                ["Last", <Ago at={group.last_at} />],
                [group.state === "open" ? "Said" : "By", group.who],
              ]}
            />
            <div class="week">
              <Bars counts={weekOf(group)} label="How many died in each six hours of the last week" />
              <span class="dim">a week ago</span>
              <span class="dim">now</span>
            </div>
            <Bulk group={group} again={asked.again} />
          </Panel>
          {letters.length > 0 && <section class="panel flush" aria-label="Dead letters">
            <Letters letters={letters} known={group.error.split("\n")[0]} />
            <Pages cursors={cursors} next={cursor} turn={setCursors} />
          </section>}
        </>
      )}
    </Loaded>
  );
}
