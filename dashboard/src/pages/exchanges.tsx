// The exchanges, and which queues get what of them.
import { overview, rate } from "../live";
import { to } from "../route";
import { Empty, Panel } from "../ui";
import { perSecond, plural, span } from "../words";

export function Exchanges() {
  if (!overview.value) return <div class="empty loading" aria-busy="true">Connecting to the gateway…</div>;
  const { exchanges, queues } = overview.value;
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
            flush={bound.length > 0}
            aside={
              <span class="dim">
                {exchange.kind} · {exchange.archive ? `archived for ${span(exchange.archive)}` : "not archived"} {names.length > 0 && ` · ${plural(names.length, "queue")} · ${perSecond(sum)}/s delivered`}
              </span>
            }
          >
            {bound.length === 0 ? (
              <p class="note">Nothing is bound to it: what is published there reaches {exchange.archive ? "only the archive" : "nobody"}.</p>
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
