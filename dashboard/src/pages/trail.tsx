// What led to a message and what followed from it, as a tree and on a line of time.
import { name as quoted, type Node, Refused } from "../api";
import { to } from "../route";
import { At, Badge, Empty, Loaded, Panel, useAsked } from "../ui";
import { exact, span } from "../words";

/** Order nodes so that each stands below its cause, the earlier before the later, with how deep it stands. */
function inOrder(nodes: Node[]): [Node, number][] {
  const known = new Set(nodes.map((one) => one.id));
  const below = new Map<string, Node[]>();
  for (const one of nodes) {
    const above = one.cause && one.cause !== one.id && known.has(one.cause) ? one.cause : "";
    below.set(above, [...(below.get(above) ?? []), one]);
  }
  const ordered: [Node, number][] = [];
  const told = new Set<string>();
  const walk = (id: string, depth: number) => {
    if (told.has(id)) return;
    told.add(id);
    for (const one of below.get(id) ?? []) {
      ordered.push([one, Math.min(depth, 8)]);
      walk(one.id, depth + 1);
    }
  };
  walk("", 0);
  return ordered.length ? ordered : nodes.map((one) => [one, 0]);
}

/** What is told in words, and is no message. */
const lines = new Set(["log", "push"]);

export function Trail({ id }: { id: string }) {
  const asked = useAsked<{ nodes: Node[]; is_all: boolean }>(`lineage/${quoted(id)}`, 15);
  if (!asked.data && asked.error instanceof Refused && asked.error.status === 404) return null;
  return (
    <Panel title="What led to it and what followed" flush>
      <Loaded asked={asked}>
        {({ nodes, is_all }) => {
          const times = nodes.flatMap((one) => [one.at, one.ended_at]).filter((at) => at != null);
          const [first, last] = [Math.min(...times), Math.max(...times)];
          const place = (at: number) => (last > first ? ((at - first) / (last - first)) * 100 : 0);
          if (nodes.length < 2) return <Empty title="It stands alone">Nothing that is known led to it, and nothing followed from it.</Empty>;
          return (
            <>
            {!is_all && <p class="note cut">There is more than could be searched in a second: what is shown may not be all.</p>}
            <table class="trail">
              <thead>
                <tr>
                  <th scope="col">Message</th>
                  <th scope="col">State</th>
                  <th scope="col" class="wide">Where</th>
                  <th scope="col" class="wide">
                    {Number.isFinite(first) && (
                      <>
                        <At at={first} /> + {span(last - first)}
                      </>
                    )}
                  </th>
                </tr>
              </thead>
              <tbody>
                {inOrder(nodes).map(([one, depth]) => (
                  <tr key={`${one.id} ${one.kind} ${one.queue} ${one.at}`} class={one.id === id ? "this" : ""}>
                    <td class="main" style={{ paddingLeft: `${16 + depth * 18}px` }}>
                      {depth > 0 && <span class="dim" aria-hidden="true">└ </span>}
                      {lines.has(one.kind) ? <span class="mono">{one.text}</span> : <a href={to("message", one.id)}>{one.type}</a>}{" "}
                      {!lines.has(one.kind) && <span class="dim">{one.text ?? one.kind}</span>}
                    </td>
                    <td>{one.state && <Badge state={one.state} />}</td>
                    <td class="wide dim">{one.queue}</td>
                    <td class="wide bar">
                      {one.at != null && (
                        <span class="track" title={exact(one.at)}>
                          <i class={one.state ?? ""} style={{ left: `${place(one.at)}%`, width: `${Math.max(0.8, place(one.ended_at ?? one.at) - place(one.at))}%` }} />
                        </span>
                      )}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}
