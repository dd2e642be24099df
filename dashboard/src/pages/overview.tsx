// What runs, how fast, how old, what is left and when it ends.
import type { ComponentChildren } from "preact";
import { Chart } from "../chart";
import { ALL, all, type Count, curve, ending, filled, now, overview, rate, times } from "../live";
import type { Alert, Host, Point, Queue } from "../api";
import { to } from "../route";
import { act, Act, Ago, Empty, Meter, Num, Panel, Spark, useAsked } from "../ui";
import { about, count, perSecond, plural, span } from "../words";

const STEPS = 60;

function Tile({ name, value, sub, tone = "", href, children }: { name: string; value: string; sub?: ComponentChildren; tone?: string; href?: string; children?: ComponentChildren }) {
  const inner = (
    <>
      <span class="name">{name}</span>
      <span class={`value ${tone}`}>{value}</span>
      <span class="sub">{sub ?? "\u00a0"}</span>
      {children}
    </>
  );
  return href ? (
    <a class="tile" href={href}>
      {inner}
    </a>
  ) : (
    <div class="tile">{inner}</div>
  );
}

function Tiles() {
  const sums = all.value!;
  const queues = overview.value!.queues;
  const pools = overview.value!.hosts.flatMap((host) => Object.values(host.pools));
  const done = rate(ALL, "done") ?? pools.reduce((sum, pool) => sum + pool.rate, 0);
  const published = rate(ALL, "published");
  const left = sums.ready + sums.running + sums.delayed;
  const ends = published === null && sums.published === undefined ? null : ending(sums.ready + sums.running, done, published);
  const oldest = queues.reduce<Queue | null>((worst, one) => ((one.oldest ?? 0) > (worst?.oldest ?? 0) ? one : worst), null);
  const slots = pools.reduce((sum, pool) => sum + pool.slots * pool.processes.length, 0);
  const busy = pools.reduce((sum, pool) => sum + pool.busy, 0);
  return (
    <div class="tiles">
      <Tile name="Left" value={count(left)} sub={left === 0 ? "all is done" : ends === null ? (sums.ready ? "not at this rate" : "keeps up") : ends === 0 ? "only what is delayed" : `ends in about ${about(ends)}`} href={to("queues")} />
      <Tile name="Ready" value={count(sums.ready)} tone="ready" sub={published === null ? "wait for a worker" : `${perSecond(published)}/s in`} href={to("queues")}>
        <Spark points={curve(ALL, "ready", STEPS)} label="Ready in the last five minutes" tone="ready" />
      </Tile>
      <Tile name="Running" value={count(sums.running)} tone="running" sub={slots ? `${count(busy)} of ${plural(slots, "slot")}` : "no workers"} href={to("workers")} />
      <Tile name="Done" value={`${perSecond(done)}/s`} tone="done" sub={sums.done === undefined ? "by the workers" : `${count(sums.done)} in all`}>
        <Spark points={curve(ALL, "done", STEPS)} label="Done a second in the last five minutes" />
      </Tile>
      <Tile name="Delayed" value={count(sums.delayed)} tone="delayed" sub="come later" href={to("messages", "", { state: "delayed" })} />
      <Tile name="Dead" value={count(sums.dead)} tone={sums.dead ? "dead" : ""} sub={sums.dead ? "need a decision" : "none"} href={to("failures")} />
      <Tile name="Oldest" value={about(oldest?.oldest ?? 0)} sub={oldest ? oldest.name : "nothing waits"} href={oldest ? to("queues", oldest.name) : undefined} />
    </div>
  );
}

function Flow() {
  const at = times(STEPS);
  const minutes = useAsked<{ points: Point[] }>("history?period=hour", 60).data?.points;
  const points = (what: Count) => filled(curve(ALL, what, STEPS), at, minutes, what);
  return (
    <Panel title="Last five minutes, messages a second">
      <Chart
        at={at}
        label="Messages a second"
        curves={[
          { label: "published", tone: "ready", points: points("published") },
          { label: "done", tone: "done", points: points("done") },
          { label: "dead", tone: "dead", points: points("died") },
        ]}
      />
    </Panel>
  );
}

function Cores({ host }: { host: Host }) {
  const seen = host.pressure;
  return (
    <Panel title={host.host} aside={seen && <span class="dim">{Math.round(seen.cpu)} % CPU</span>}>
      {seen ? (
        <div class="cores">
          {seen.cores.map((used, core) => (
            <div class="core" key={core}>
              <span class="dim">core {core}</span>
              <Meter used={used} of={100} label={`Core ${core} of ${host.host}, percent`} tone={used > 85 ? "hot" : ""} />
              <span class="num">{Math.round(used)} %</span>
            </div>
          ))}
          {seen.why && (
            <p class={seen.slow ? "note hot" : "note"}>
              Governor: {seen.limit} of {plural(seen.slots, "slot")}, {seen.why}
            </p>
          )}
        </div>
      ) : (
        <p class="note">This host is not measured yet.</p>
      )}
      <ul class="pools">
        {Object.entries(host.pools).map(([name, pool]) => {
          const slots = pool.slots * pool.processes.length;
          return (
            <li key={name}>
              <a href={to("workers")}>{name}</a>
              <Meter used={pool.busy} of={slots} label={`Slots in use in ${name}`} />
              <span class="num">
                {count(pool.busy)}/{count(slots)}
              </span>
              <span class="dim">{plural(pool.processes.length, "process", "processes")}</span>
            </li>
          );
        })}
      </ul>
    </Panel>
  );
}

function Busiest() {
  const queues = [...overview.value!.queues];
  const weight = (queue: Queue) => queue.ready + queue.running * 10 + (rate(queue.name, "done") ?? 0) * 100 + queue.dead;
  const first = queues.sort((a, b) => weight(b) - weight(a) || a.name.localeCompare(b.name)).slice(0, 8);
  return (
    <Panel title="Busiest queues" flush aside={<a href={to("queues")}>all {count(queues.length)}</a>}>
      {first.length === 0 ? (
        <Empty title="No queues yet">They appear when a command or an event that somebody handles is declared.</Empty>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">Queue</th>
              <th scope="col" class="r">Ready</th>
              <th scope="col" class="r">Running</th>
              <th scope="col" class="r wide">Dead</th>
              <th scope="col" class="r">Done/s</th>
              <th scope="col" class="r">Oldest</th>
            </tr>
          </thead>
          <tbody>
            {first.map((queue) => (
              <tr key={queue.name}>
                <td class="main">
                  <a href={to("queues", queue.name)} data-row>
                    {queue.name}
                  </a>
                  {queue.paused && <span class="badge paused">paused</span>}
                </td>
                <td class="r">
                  <Num value={queue.ready} state="ready" about={queue.is_estimate} />
                </td>
                <td class="r">
                  <Num value={queue.running} state="running" />
                </td>
                <td class="r wide">
                  <Num value={queue.dead} state="dead" />
                </td>
                <td class="r num">{perSecond(rate(queue.name, "done"))}</td>
                <td class="r num">{queue.oldest === undefined ? <span class="dim">–</span> : span(queue.oldest)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Panel>
  );
}

function Engine() {
  const { engine, clients, intake, exchanges, application } = overview.value!;
  const workers = clients.filter((client) => client.role === "worker").length;
  return (
    <Panel
      title="Engine"
      aside={
        <Act need="admin" run={() => act("intake", { paused: intake === "open" }, intake === "open" ? "Intake is closed: new messages are refused" : "Intake is open")}>
          {intake === "open" ? "Close intake" : "Open intake"}
        </Act>
      }
    >
      <dl class="facts">
        <div>
          <dt>Application</dt>
          <dd>{application}</dd>
        </div>
        <div>
          <dt>Engine</dt>
          <dd>{engine.postgres ? `PostgreSQL ${engine.postgres}` : engine.sqlite ? `file, SQLite ${engine.sqlite}` : "–"}</dd>
        </div>
        <div class="whole">
          <dt>Where</dt>
          <dd class="mono">{engine.path}</dd>
        </div>
        {engine.started_at && (
          <div>
            <dt>Up for</dt>
            <dd>{span(now.value - engine.started_at)}</dd>
          </div>
        )}
        <div>
          <dt>Connected</dt>
          <dd>
            {plural(clients.length, "process", "processes")}, {plural(workers, "worker")}
          </dd>
        </div>
        <div>
          <dt>Exchanges</dt>
          <dd>
            <a href={to("exchanges")}>{count(exchanges.length)}</a>
          </dd>
        </div>
      </dl>
      {engine.full && <p class="note hot">The disk is full: new messages are refused until there is room again.</p>}
    </Panel>
  );
}

function Wrong() {
  const alerts = useAsked<{ alerts: Alert[] }>("alerts", 5).data?.alerts ?? [];
  if (!alerts.length) return null;
  return (
    <section class="alerts" aria-label="Alerts">
      {alerts.map((one) => (
        <p key={one.name}>
          <strong>{one.name}</strong> {one.text} <span>since <Ago at={one.since} /></span>
        </p>
      ))}
    </section>
  );
}

export function Overview() {
  if (!overview.value) return <div class="empty loading" aria-busy="true">Connecting to the gateway…</div>;
  const { hosts } = overview.value;
  return (
    <>
      <Wrong />
      <Tiles />
      <div class="columns">
        <div>
          <Flow />
          <Busiest />
        </div>
        <div>
          {hosts.length === 0 && (
            <Panel title="Hosts">
              <Empty title="No supervisor runs">Start the workers with: chappe run</Empty>
            </Panel>
          )}
          {hosts.map((host) => (
            <Cores key={`${host.host}.${host.pid}`} host={host} />
          ))}
          <Engine />
        </div>
      </div>
    </>
  );
}
