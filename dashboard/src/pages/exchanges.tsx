// The exchanges, and which queues get what of them.
import { Chart } from "../chart";
import { curve, exchanged, overview, rate, times } from "../live";
import { to } from "../route";
import { Empty, Panel } from "../ui";
import { perSecond, plural, span } from "../words";

const STEPS = 60;

/** What was published and delivered in the last five minutes: with one subscriber the curves coincide, with two one is twice the other. */
function Curves({ name }: { name: string }) {
  const key = exchanged(name);
  const [published, delivered] = [curve(key, "published", STEPS), curve(key, "done", STEPS)];
  return (
    <Chart
      at={times(STEPS)}
      height={130}
      label={`${name}, the last five minutes`}
      curves={[
        { label: "delivered/s", tone: "done", points: delivered },
        { label: "published/s", tone: "ready", points: published },
      ]}
    />
  );
}

function Rates({ name, delivered }: { name: string; delivered: number | null }) {
  const key = exchanged(name);
  const published = rate(key, "published");
  if (published === null) return <>{perSecond(delivered)}/s delivered</>;
  return (
    <>
      {perSecond(published)}/s published, {perSecond(rate(key, "done"))}/s delivered
    </>
  );
}

export function Exchanges() {
  if (!overview.value) return <div class="empty loading" aria-busy="true">Connecting to the gateway…</div>;
  const { exchanges, queues, passed } = overview.value;
  if (!exchanges.length) return <Empty title="No exchanges">An exchange appears when an event, or a command with exchange=, is declared.</Empty>;
  return (
    <>
      {exchanges.map((exchange) => {
        const bound = queues.flatMap((queue) => queue.bindings.filter(([name]) => name === exchange.name).map(([, key]) => ({ queue, key })));
        const names = [...new Set(bound.map(({ queue }) => queue.name))];
        const rates = names.map((name) => rate(name, "published")).filter((one) => one !== null);
        const sum = rates.length ? rates.reduce((all, one) => all + one, 0) : null;
        return (
          <Panel
            key={exchange.name}
            title={exchange.name || "default"}
            flush
            aside={
              <span class="dim">
                {exchange.kind} · {exchange.archive ? `archived for ${span(exchange.archive)}` : "not archived"} {names.length > 0 && <> · {plural(names.length, "queue")} · <Rates name={exchange.name} delivered={sum} /></>}
              </span>
            }
          >
            {passed?.[exchange.name] && (
              <div class="curves">
                <Curves name={exchange.name} />
              </div>
            )}
            {bound.length === 0 ? (
              <p class="note cut">Nothing is bound to it: what is published there reaches {exchange.archive ? "only the archive" : "nobody"}.</p>
            ) : (
              <table>
                <thead>
                  <tr>
                    <th scope="col">Routing key</th>
                    <th scope="col">Queue</th>
                    <th scope="col" class="r">Delivered/s</th>
                    <th scope="col" class="wide">Declared by</th>
                  </tr>
                </thead>
                <tbody>
                  {bound.map(({ queue, key }) => (
                    <tr key={queue.name + key}>
                      <td class="mono">{key || "any"}</td>
                      <td>
                        <a href={to("queues", queue.name)} data-row>
                          {queue.name}
                        </a>
                        {queue.consumers === 0 && <span class="badge dead">nobody takes from it</span>}
                      </td>
                      <td class="r num">{perSecond(rate(queue.name, "published"))}</td>
                      <td class="wide dim">{queue.origin}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            )}
          </Panel>
        );
      })}
    </>
  );
}
