// Messages of all queues or of one, by state, type, text and id.
import { useEffect, useState } from "preact/hooks";
import { address, type Message } from "../api";
import { overview } from "../live";
import { go, route, to } from "../route";
import { Ago, At, Badge, Empty, Loaded, Num, Search, STATES, useAsked } from "../ui";
import { bytes } from "../words";

interface Found {
  messages: Message[];
  cursor: string | null;
}

const ASKED = ["queue", "state", "type", "text", "id"] as const;

function Rows({ messages, queue }: { messages: Message[]; queue?: string }) {
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">Message</th>
          {!queue && <th scope="col" class="wide">Queue</th>}
          <th scope="col">State</th>
          <th scope="col" class="r wide">Attempt</th>
          <th scope="col" class="wide">Sent</th>
          <th scope="col" class="wide">Due</th>
          <th scope="col" class="r wide">Size</th>
        </tr>
      </thead>
      <tbody>
        {messages.map((one) => (
          <tr key={`${one.queue} ${one.id}`}>
            <td class="main two">
              <a href={to("message", one.id)} data-row>
                {one.type}
              </a>
              <span class="mono dim">{one.id}</span>
              {one.begun === false && <span class="dim">waits for a slot of {one.runs_on}</span>}
              {one.error && <span class="dead">{one.error}</span>}
            </td>
            {!queue && (
              <td class="wide">
                <a href={to("queues", one.queue)}>{one.queue}</a>
              </td>
            )}
            <td>
              <Badge state={one.state} />
            </td>
            <td class="r num wide">
              <Num value={one.attempt} />
            </td>
            <td class="wide num">
              <At at={one.sent_at} />
            </td>
            <td class="wide num">{one.due ? <Ago at={one.due} /> : <span class="dim">–</span>}</td>
            <td class="r num wide">{bytes(one.size)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** A list with its filters, which stand in the address; `queue` is fixed where it is given. */
export function List({ queue }: { queue?: string }) {
  const { asked, page } = route.value;
  const wanted = Object.fromEntries(ASKED.map((name) => [name, asked.get(name) ?? ""])) as Record<(typeof ASKED)[number], string>;
  if (queue) wanted.queue = queue;
  const [cursors, setCursors] = useState<string[]>([]);
  const question = address("messages", { ...wanted, limit: 25 });
  useEffect(() => setCursors([]), [question]);
  const found = useAsked<Found>(address("messages", { ...wanted, cursor: cursors.at(-1), limit: 25 }), cursors.length ? 30 : 3);
  const change = (name: string, value: string) => {
    const next: Record<string, string> = { ...wanted, [name]: value };
    if (queue) delete next.queue;
    go(to(page, queue ?? "", next), true);
  };
  const narrowed = wanted.type || wanted.text || wanted.id || wanted.state;
  return (
    <section class="panel flush" aria-label="Messages">
      <header>
        <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
          <Search value={wanted.text} label="Text in the body" change={(text) => change("text", text)} />
          {!queue && (
            <select aria-label="Queue" value={wanted.queue} onChange={(event) => change("queue", event.currentTarget.value)}>
              <option value="">all queues</option>
              {overview.value?.queues.map((one) => (
                <option key={one.name}>{one.name}</option>
              ))}
            </select>
          )}
          <select aria-label="State" value={wanted.state} onChange={(event) => change("state", event.currentTarget.value)}>
            <option value="">any state</option>
            {STATES.filter((state) => state !== "done").map((state) => (
              <option key={state}>{state}</option>
            ))}
          </select>
          <input aria-label="Type, the whole name" placeholder="Type, the whole name" value={wanted.type} onInput={(event) => change("type", event.currentTarget.value)} />
          <input
            aria-label="Id"
            placeholder="Id, Enter opens it"
            class="mono"
            value={wanted.id}
            onInput={(event) => change("id", event.currentTarget.value.trim())}
            onKeyDown={(event) => event.key === "Enter" && wanted.id && go(to("message", wanted.id))}
          />
        </form>
      </header>
      <Loaded asked={found}>
        {({ messages, cursor }) => (
          <>
            {messages.length === 0 ? (
              <Empty title={cursor ? "Nothing here yet" : narrowed ? "No message is like this" : "Nothing waits here"}>
                {cursor
                  ? "What was looked at has nothing like this. Next looks further."
                  : narrowed
                    ? "Take a filter away. What is done is not listed: open it by its id."
                    : "Messages that are delayed, ready, running or dead are listed here."}
              </Empty>
            ) : (
              <Rows messages={messages} queue={queue} />
            )}
            <Pages cursors={cursors} next={cursor} turn={setCursors} />
          </>
        )}
      </Loaded>
    </section>
  );
}

export function Pages({ cursors, next, turn }: { cursors: string[]; next: string | null; turn: (cursors: string[]) => void }) {
  if (!cursors.length && !next) return null;
  return (
    <div class="turn">
      <button type="button" disabled={!cursors.length} onClick={() => turn(cursors.slice(0, -1))}>
        Back
      </button>
      <span class="dim">page {cursors.length + 1}</span>
      <button type="button" disabled={!next} onClick={() => next && turn([...cursors, next])}>
        Next
      </button>
    </div>
  );
}

export function Messages() {
  return <List />;
}
