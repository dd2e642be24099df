// Who did what, the latest first.
import { type Entry } from "../api";
import { route, go, to } from "../route";
import { Ago, Empty, Loaded, Search, useAsked } from "../ui";

function said({ what, value }: Entry): string {
  const [kind = "", ...rest] = what.split(":");
  const name = rest.join(":");
  if (kind === "act") return `${name} ${value ?? ""}`;
  const words: Record<string, string> = {
    queue: value === null ? `resumed queue ${name}` : `paused queue ${name}`,
    schedule: value === null ? `resumed schedule ${name}` : `paused schedule ${name}`,
    intake: value === null ? "opened the intake" : "closed the intake",
    pool: value === null ? `gave pool ${name} its declared number of processes` : `chose ${value} processes for pool ${name}`,
    failure: value === null ? `reopened failure ${name}` : `said that failure ${name} is ${value}`,
    reload: "asked for a reload",
  };
  return words[kind] ?? (value === null ? what : `${what}: ${value}`);
}

export function Audit() {
  const asked = useAsked<{ entries: Entry[] }>("audit?limit=500", 5);
  const text = route.value.asked.get("text") ?? "";
  return (
    <section class="panel flush" aria-label="Audit">
      <header>
        <Search value={text} label="Find who or what" change={(words) => go(to("audit", "", { text: words }), true)} />
        <span class="dim">the last 500 actions of everybody</span>
      </header>
      <Loaded asked={asked}>
        {({ entries }) => {
          const shown = entries.filter((one) => `${one.who} ${said(one)}`.toLowerCase().includes(text.toLowerCase()));
          if (!shown.length) return <Empty title={text ? "Nobody did anything like this" : "Nobody did anything yet"}>Pauses, retries and everything else that is done here or on the command line is kept with who did it.</Empty>;
          return (
            <table>
              <thead>
                <tr>
                  <th scope="col">When</th>
                  <th scope="col">Who</th>
                  <th scope="col">What</th>
                </tr>
              </thead>
              <tbody>
                {shown.map((one) => (
                  <tr key={one.number}>
                    <td class="num">
                      <Ago at={one.at} />
                    </td>
                    <td class="mono">{one.who}</td>
                    <td>{said(one)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          );
        }}
      </Loaded>
    </section>
  );
}
