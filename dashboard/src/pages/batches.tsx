// Batches: how far each is, when it ends, and what of it failed.
import { useState } from "preact/hooks";
import { address, type Batch as Told, type Letter, name as quoted, Refused } from "../api";
import { now } from "../live";
import { route, to } from "../route";
import { Act, Ago, At, Empty, Facts, Loaded, Num, Panel, sure, useAsked } from "../ui";
import { count, perSecond, span } from "../words";
import { Letters, useBulk } from "./failures";
import { Pages } from "./messages";

function State({ batch }: { batch: Told }) {
  const word = batch.state === "over" ? (batch.dead ? "over, some failed" : "over") : batch.state;
  return <span class={`badge ${batch.state === "over" ? (batch.dead ? "dead" : "up") : "running"}`}>{word}</span>;
}

/** How much of it has ended, and how much of that failed. */
function Bar({ batch }: { batch: Told }) {
  const [done, dead] = [batch.done ?? 0, batch.dead ?? 0];
  return (
    <span class="parts" role="meter" aria-valuenow={done + dead} aria-valuemin={0} aria-valuemax={batch.total} aria-label={`${count(done)} done and ${count(dead)} failed of ${count(batch.total)}`}>
      <span class="done" style={{ flexGrow: done }} />
      <span class="dead" style={{ flexGrow: dead }} />
      <span style={{ flexGrow: batch.waiting ?? batch.total }} />
    </span>
  );
}

function Far({ batch }: { batch: Told }) {
  if (batch.waiting == null) return <span class="dim">is being counted…</span>;
  return (
    <span class="use">
      <Bar batch={batch} />
      <span class="num">
        {count(batch.total - batch.waiting)} of {count(batch.total)}
      </span>
    </span>
  );
}

function endsOf(batch: Told): string {
  if (batch.state === "over") return "over";
  return batch.left == null ? "not known yet" : `in about ${span(batch.left)}`;
}

export function Batches() {
  const [cursors, setCursors] = useState<string[]>([]);
  const asked = useAsked<{ batches: Told[]; cursor: string | null }>(address("batches", { cursor: cursors.at(-1), limit: 25 }), 2);
  return (
    <section class="panel flush" aria-label="Batches">
      <Loaded asked={asked}>
        {({ batches, cursor }) =>
          batches.length === 0 && !cursors.length ? (
            <Empty title="No batches">
              Commands that are sent with <code>Batches(app).send([…])</code> are counted together here, for a day after their end.
            </Empty>
          ) : (
            <>
              <table class="stack">
                <thead>
                  <tr>
                    <th scope="col">Batch</th>
                    <th scope="col">Ended</th>
                    <th scope="col" class="r">Failed</th>
                    <th scope="col" class="r wide">Rate</th>
                    <th scope="col" class="r wide">Ends</th>
                    <th scope="col" class="wide">Began</th>
                    <th scope="col" class="wide">State</th>
                  </tr>
                </thead>
                <tbody>
                  {batches.map((one) => (
                    <tr key={one.id}>
                      <td class="main two">
                        <a href={to("batches", one.id)} data-row>
                          {one.type ?? "Batch"}
                        </a>
                        <span class="mono dim">{one.id}</span>
                      </td>
                      <td class="below">
                        <Far batch={one} />
                      </td>
                      <td class="r">{one.dead == null ? "–" : <Num value={one.dead} state="dead" />}<span class="phone dim"> failed</span></td>
                      <td class="r num wide">{one.rate == null ? <span class="dim">–</span> : `${perSecond(one.rate)}/s`}</td>
                      <td class="r num wide">{one.left == null ? <span class="dim">–</span> : span(one.left)}</td>
                      <td class="num wide">
                        <Ago at={one.began_at} />
                      </td>
                      <td class="wide">
                        <State batch={one} />
                      </td>
                    </tr>
                  ))}
                </tbody>
              </table>
              <Pages cursors={cursors} next={cursor} turn={setCursors} />
            </>
          )
        }
      </Loaded>
    </section>
  );
}

function Failed({ batch, letters, all, again }: { batch: Told; letters: Letter[]; all: number; again: () => void }) {
  const { run, shown } = useBulk(`batches/${quoted(batch.id)}`, again);
  const discard = async () => {
    if (await sure("Discard all of them?", `${count(all)} dead letters of this batch are deleted. This cannot be undone.`, `Discard ${count(all)}`))
      await run({ action: "discard" });
  };
  return (
    <Panel
      title={all ? `Failed, ${count(all)}` : "Failed"}
      flush
      aside={
        all > 0 && (
          <>
            {shown}
            <Act tone="primary" run={() => run({ action: "retry" })}>
              Retry {count(all)}
            </Act>
            <Act tone="danger" run={discard}>
              Discard all
            </Act>
          </>
        )
      }
    >
      {all ? <Letters letters={letters} /> : <Empty title={batch.state === "over" ? "None of it failed" : "Nothing of it has failed so far"} />}
    </Panel>
  );
}

export function Batch() {
  const id = route.value.rest;
  const [cursors, setCursors] = useState<string[]>([]);
  const asked = useAsked<{ batch: Told; letters: Letter[]; letter_count: number; cursor: string | null }>(
    address(`batches/${quoted(id)}`, { cursor: cursors.at(-1), limit: 25 }),
    2,
  );
  if (!asked.data && asked.error instanceof Refused && asked.error.status === 404)
    return (
      <Empty title="There is no such batch any more">
        It ended more than a day ago, or never was. <a href={to("batches")}>All batches</a>
      </Empty>
    );
  return (
    <Loaded asked={asked}>
      {({ batch, letters, letter_count, cursor }) => (
        <>
          <Panel title={batch.type ?? "Batch"} aside={<State batch={batch} />}>
            <p class="mono dim id">{batch.id}</p>
            <div class="big">
              <Bar batch={batch} />
            </div>
            <div class="states">
              {(
                [
                  ["waiting", batch.waiting, "ready"],
                  ["done", batch.done, "done"],
                  ["failed", batch.dead, "dead"],
                  ["in all", batch.total, ""],
                ] as const
              ).map(([word, number, state]) => (
                <div key={word}>
                  <Num value={number ?? 0} state={state} />
                  <span class="dim">{word}</span>
                </div>
              ))}
            </div>
            <Facts
              two
              facts={[
                ["Ends", endsOf(batch)],
                ["Rate", batch.rate == null ? null : `${perSecond(batch.rate)}/s since it began`],
                ["Began", <><At at={batch.began_at} />, <Ago at={batch.began_at} /></>],
                ["Runs for", batch.state === "over" ? null : span(Math.max(0, now.value - batch.began_at))],
                ["Queue", batch.queue && <a href={to("queues", batch.queue)}>{batch.queue}</a>],
                ["Waiting", batch.waiting ? <a href={to("messages", "", { text: `${batch.id}.` })}>its messages</a> : null],
              ]}
            />
          </Panel>
          <Failed batch={batch} letters={letters} all={letter_count} again={asked.again} />
          <Pages cursors={cursors} next={cursor} turn={setCursors} />
        </>
      )}
    </Loaded>
  );
}
