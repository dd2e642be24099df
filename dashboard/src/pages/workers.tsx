// The hosts, their pools and processes; here the number of processes is chosen.
import { useState } from "preact/hooks";
import { type Client, type Host, name as quoted, type Pool } from "../api";
import { overview } from "../live";
import { to } from "../route";
import { act, Act, Ago, Empty, Meter, Panel, sure } from "../ui";
import { bytes as written, count, perSecond, plural } from "../words";

const MIB = 1024 ** 2; // what supervisors tell memory in

function bytes(mebibytes: number | null): string {
  return mebibytes ? written(mebibytes * MIB) : "–";
}

function Number_({ name, pool }: { name: string; pool: Pool }) {
  const [least, most] = pool.bounds;
  const declared = least === most ? String(least) : `${least}..${most}`;
  const [text, setText] = useState<string | null>(null);
  const want = async (processes: string | null) => {
    const said = processes === null ? `${name} has as many processes as chappe.toml says` : `${name} is to have ${processes} processes`;
    if (await act(`pools/${quoted(name)}`, { processes }, said)) setText(null);
  };
  return (
    <form
      class="number"
      onSubmit={(event) => {
        event.preventDefault();
        if (text?.trim()) void want(text.trim());
      }}
    >
      <Act need="admin" label={`One process less in ${name}`} disabled={pool.wanted < 1} run={() => want(String(pool.wanted - 1))}>
        −
      </Act>
      <input aria-label={`Processes of ${name}: a number, or least..most`} class="num" size={6} value={text ?? declared} onInput={(event) => setText(event.currentTarget.value)} />
      <Act need="admin" label={`One process more in ${name}`} run={() => want(String(pool.wanted + 1))}>
        +
      </Act>
      <Act need="admin" disabled={text === null} tone={text === null ? "" : "primary"} run={() => text && want(text.trim())} label={`Set the processes of ${name}`}>
        Set
      </Act>
      <Act need="admin" run={() => want(null)} label={`As declared: ${name}`}>
        As declared
      </Act>
    </form>
  );
}

function PoolPanel({ name, pool, host, holding }: { name: string; pool: Pool; host: Host; holding: Map<number, Client> }) {
  const slots = pool.slots * pool.processes.length;
  const memory = pool.processes.reduce((sum, one) => sum + (one.memory ?? 0), 0);
  return (
    <Panel
      title={name}
      aside={
        <>
          <a class="button" href={to("workers", name)} aria-label={`Log of ${name}`}>
            Log
          </a>
          <Number_ name={name} pool={pool} />
        </>
      }
    >
      <div class="pool">
        <span class="dim">serves</span>
        <span>
          {pool.queues.map((queue) => (
            <code key={queue}>{queue} </code>
          ))}
          {pool.exclude.length > 0 && <span class="dim"> but not </span>}
          {pool.exclude.map((queue) => (
            <code key={queue}>{queue} </code>
          ))}
        </span>
        <span class="dim">in use</span>
        <span class="use">
          <Meter used={pool.busy} of={slots} label={`Slots in use in ${name}`} /> {count(pool.busy)} of {plural(slots, "slot")}, {perSecond(pool.rate)}/s, {bytes(memory)}
        </span>
        {pool.why && (
          <>
            <span class="dim">chosen</span>
            <span>
              {pool.wants ?? pool.wanted}: {pool.why}
            </span>
          </>
        )}
      </div>
      {pool.processes.length === 0 ? (
        <Empty title="No process runs">{pool.wanted ? "They are being started." : "The pool is scaled to zero: its queues wait. Choose a number above."}</Empty>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">Process</th>
              <th scope="col">State</th>
              <th scope="col" class="r">PID</th>
              <th scope="col" class="r wide">Holds</th>
              <th scope="col" class="r">Memory</th>
              <th scope="col" class="r">Starts</th>
              <th scope="col" class="r wide">Crashes</th>
            </tr>
          </thead>
          <tbody>
            {pool.processes.map((one) => (
              <tr key={`${host.host} ${one.name}`}>
                <td class="mono">{one.name}</td>
                <td>
                  <span class={`badge ${one.state === "ready" ? "up" : one.state === "starting" ? "running" : "dead"}`}>{one.state}</span>
                </td>
                <td class="r num">{one.pid && one.state === "ready" ? <a href={to("process", String(one.pid))} title="What it does now">{one.pid}</a> : (one.pid ?? "–")}</td>
                <td class="r num wide">{one.pid !== null && holding.has(one.pid) ? count(holding.get(one.pid)!.holding) : "–"}</td>
                <td class="r num">{bytes(one.memory)}</td>
                <td class="r num">{one.starts}</td>
                <td class="r num wide">
                  <span class={one.crashes ? "dead" : "dim"}>{one.crashes}</span>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Panel>
  );
}

function Others({ clients }: { clients: Client[] }) {
  const since = clients.some((one) => one.connected_at);
  return (
    <Panel title={`Connected, ${plural(clients.length, "process", "processes")}`} flush>
      <table>
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col">Role</th>
            <th scope="col" class="r">Holds</th>
            {since && (
              <th scope="col" class="wide">
                Connected
              </th>
            )}
          </tr>
        </thead>
        <tbody>
          {clients.map((one) => (
            <tr key={one.name}>
              <td class="mono main">{one.name}</td>
              <td>{one.role}</td>
              <td class="r num">{count(one.holding)}</td>
              {since && <td class="wide num">{one.connected_at ? <Ago at={one.connected_at} /> : "–"}</td>}
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}

export function Workers() {
  if (!overview.value) return <div class="empty loading" aria-busy="true">Connecting to the gateway…</div>;
  const { hosts, clients } = overview.value;
  const holding = new Map<number, Client>();
  for (const one of clients) {
    const pid = Number(one.info.pid ?? /(\d+)$/.exec(one.name)?.[1]);
    if (pid) holding.set(pid, one);
  }
  const reload = async () => {
    if (await sure("Take a new release into use?", "All hosts load the code and settings again, and replace their processes one by one.", "Reload"))
      await act("reload", {}, "A reload is asked for");
  };
  return (
    <>
      {hosts.length === 0 && (
        <Panel title="Hosts">
          <Empty title="No supervisor runs">Start one on this machine with: chappe run</Empty>
        </Panel>
      )}
      {hosts.map((host) => (
        <section key={`${host.host}.${host.pid}`} aria-label={host.host}>
          <div class="over">
            <h2>{host.host}</h2>
            <span class="dim">
              {host.pressure ? `${Math.round(host.pressure.cpu)} % CPU` : ""} · supervisor {host.pid}
            </span>
            <Act need="admin" run={reload}>Reload</Act>
          </div>
          {Object.entries(host.pools).map(([name, pool]) => (
            <PoolPanel key={name} name={name} pool={pool} host={host} holding={holding} />
          ))}
        </section>
      ))}
      <Others clients={clients} />
      <p class="note">
        What a process runs stands in <a href={to("messages", "", { state: "running" })}>the messages that run</a>; the number of a process leads to what it does now.
      </p>
    </>
  );
}
