// What fires when, in words; pause, go on, and fire now.
import { toString as inEnglish } from "cronstrue";
import { type Budget, name as quoted, type Schedule } from "../api";
import { act, Act, Ago, At, Empty, Loaded, Panel, sure, useAsked } from "../ui";
import { to } from "../route";
import { span } from "../words";

/** Say a trigger like `cron(0 4 * * 1-5,Europe/Paris)` in words; one of an application's own class is shown as it is. */
export function inWords(trigger: string): string {
  const every = /^every\(([\d.e+]+)\)$/.exec(trigger);
  if (every) return `Every ${span(Number(every[1]))}`;
  const cron = /^cron\((.*),([^,]*)\)$/.exec(trigger);
  if (!cron) return trigger;
  try {
    const words = inEnglish(cron[1]!, { use24HourTimeFormat: true, verbose: false });
    return cron[2] === "UTC" ? words : `${words} (${cron[2]!.replaceAll("_", " ")})`;
  } catch {
    return trigger;
  }
}

const MISFIRE: Record<string, string> = { once: "missed slots fire once", skip: "missed slots are skipped", all: "missed slots all fire" };

function paceOf(one: Budget): string {
  if (one.is_learned) return one.limit && one.window ? `${one.limit} in ${span(one.window)}, learned` : "not known before something is refused";
  return `once in ${span(one.interval)}${one.burst > 1 ? `, ${one.burst} at once` : ""}`;
}

function Budgets() {
  const asked = useAsked<{ budgets: Budget[] }>("budgets", 3);
  return (
    <Panel title="Budgets: how often third parties may be called" flush>
      <Loaded asked={asked}>
        {({ budgets }) =>
          budgets.length === 0 ? (
            <Empty title="No budget was used within a day">A command has one where its class says how often it may start.</Empty>
          ) : (
            <table>
              <thead>
                <tr>
                  <th scope="col">Budget</th>
                  <th scope="col">May be called</th>
                  <th scope="col" class="r wide">Left</th>
                  <th scope="col" class="r">Next start</th>
                </tr>
              </thead>
              <tbody>
                {budgets.map((one) => (
                  <tr key={one.name}>
                    <td class="main mono">{one.name}</td>
                    <td>
                      {paceOf(one)} {one.since && <span class="dim">since <At at={one.since} /></span>}
                    </td>
                    <td class="r num wide">{one.left ?? <span class="dim">–</span>}</td>
                    <td class="r num">{one.opens > 0 ? `in ${span(one.opens)}` : "now"}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )
        }
      </Loaded>
    </Panel>
  );
}

export function Schedules() {
  const asked = useAsked<{ schedules: Schedule[] }>("schedules", 3);
  const pause = (one: Schedule) => async () => {
    await act(`schedules/${quoted(one.name)}`, { paused: !one.paused }, one.paused ? `${one.name} goes on` : `${one.name} is paused: its slots are passed over`);
    asked.again();
  };
  const fire = (one: Schedule) => async () => {
    if (!(await sure("Fire now?", `${one.message} is sent once more; the slots of the schedule stay as they are.`, "Fire now"))) return;
    await act<{ id: string }>(`schedules/${quoted(one.name)}`, { fire: true }, (sent) => `${one.message} is sent: ${sent.id}`);
    asked.again();
  };
  return (
    <>
      <Panel title="Schedules" flush>
      <Loaded asked={asked}>
        {({ schedules }) =>
          schedules.length === 0 ? (
            <Empty title="No schedules">Declare one with app.schedule(cron("0 4 * * *"), SendReport()).</Empty>
          ) : (
            <table class="stack">
              <thead>
                <tr>
                  <th scope="col">Schedule</th>
                  <th scope="col" class="wide">Sends</th>
                  <th scope="col">Next</th>
                  <th scope="col" class="wide">Last</th>
                  <th scope="col" class="r">
                    <span class="hidden">Act</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {schedules.map((one) => (
                  <tr key={one.name}>
                    <td class="main two">
                      <span>
                        <strong>{inWords(one.trigger)}</strong> {one.paused && <span class="badge paused">paused</span>}
                      </span>
                      <span class="dim mono">{one.name}</span>
                    </td>
                    <td class="wide">
                      <a href={to("messages", "", { type: one.message })}>{one.message}</a>
                      <div class="dim small">{MISFIRE[one.misfire] ?? one.misfire}</div>
                    </td>
                    <td class="num">{one.paused || one.next === null ? <span class="dim">passes over</span> : <Ago at={one.next} />}</td>
                    <td class="num wide">
                      <At at={one.last} />
                    </td>
                    <td class="r acts">
                      <Act label={`${one.paused ? "Resume" : "Pause"} ${one.name}`} run={pause(one)}>
                        {one.paused ? "Resume" : "Pause"}
                      </Act>{" "}
                      <Act label={`Fire now: ${one.name}`} run={fire(one)}>
                        Fire now
                      </Act>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )
        }
      </Loaded>
      </Panel>
      <Budgets />
    </>
  );
}
