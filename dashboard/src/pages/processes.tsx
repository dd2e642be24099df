// What the processes of a host write and do: the log of a pool, live, and the stacks of one process.
import { useEffect, useRef, useState } from "preact/hooks";
import { address, get, name as quoted, post, Refused, type Stack } from "../api";
import { now, overview } from "../live";
import { route, to } from "../route";
import { Act, Empty, Fault, Panel, Search, tell } from "../ui";
import { clock, plural } from "../words";

const KEPT = 2000; // lines
const EACH = 1000; // ms
const LEVEL = /\b(critical|error|warning)\b/i;

interface Log {
  file: string;
  lines: string[];
  cursor: string;
  is_new: boolean;
}

const SAID = new Set(["event", "level", "logger", "timestamp", "role", "pid", "exception", "stack"]);

/** Return a line as people read it, and its level; one of JSON is told in words, whatever else is left as it is. */
function read(line: string): { text: string; level: string } {
  try {
    if (!line.startsWith("{")) throw new Error();
    const told = JSON.parse(line) as Record<string, unknown>;
    const rest = Object.entries(told).filter(([name]) => !SAID.has(name));
    const more = rest.map(([name, value]) => ` ${name}=${typeof value === "string" ? value : JSON.stringify(value)}`).join("");
    const trace = [told.exception, told.stack].filter(Boolean).map((one) => `\n${String(one)}`).join("");
    const at = String(told.timestamp).slice(11, 23);
    return { text: `${at} ${String(told.level).padEnd(8)} ${String(told.event)}${more}  [${String(told.pid)}]${trace}`, level: String(told.level) };
  } catch {
    return { text: line, level: LEVEL.exec(line)?.[1]?.toLowerCase() ?? "" };
  }
}

/** Follow the log of a pool: its last lines, and then what is added. */
function useLog(pool: string, follows: boolean): { file: string; lines: string[]; error: Error | null; again: () => void } {
  const [found, keep] = useState<{ file: string; lines: string[]; error: Error | null }>({ file: "", lines: [], error: null });
  const [turn, setTurn] = useState(0);
  const cursor = useRef<string | null>(null);
  useEffect(() => {
    if (!follows) return;
    const stop = new AbortController();
    let timer = 0;
    const look = async () => {
      let more = false;
      try {
        const asked = address(`pools/${quoted(pool)}/logs`, { cursor: cursor.current, limit: cursor.current ? null : 500 });
        const log = await get<Log>(asked, stop.signal);
        more = cursor.current !== null && log.lines.length > 0;
        cursor.current = log.cursor;
        keep((before) => (log.lines.length || !before.file || before.error ? { file: log.file, lines: [...before.lines, ...log.lines].slice(-KEPT), error: null } : before));
      } catch (error) {
        if (stop.signal.aborted) return;
        keep((before) => ({ ...before, error: error as Error }));
        if (error instanceof Refused && error.status < 500) return;
      }
      if (!stop.signal.aborted) timer = window.setTimeout(() => void look(), more ? EACH / 4 : EACH);
    };
    void look();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [pool, follows, turn]);
  return { ...found, again: () => setTurn((n) => n + 1) };
}

export function PoolLog() {
  const pool = route.value.rest;
  const [follows, setFollows] = useState(true);
  const [text, setText] = useState("");
  const { file, lines, error, again } = useLog(pool, follows);
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const shown = text ? lines.filter((line) => line.toLowerCase().includes(text.toLowerCase())) : lines;
  useEffect(() => {
    if (atEnd.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown.length, lines.at(-1)]);
  if (error && !lines.length) {
    if (error instanceof Refused && error.status === 404)
      return (
        <Panel title={`Log of ${pool}`}>
          <Empty title="There is no log to read here">{error.detail}</Empty>
        </Panel>
      );
    return <Fault error={error} again={again} />;
  }
  return (
    <section class="panel flush" aria-label={`Log of ${pool}`}>
      <header>
        <Search value={text} label="Words in a line, or the number of a process" change={setText} wide />
        <span class="dim">{text ? `${plural(shown.length, "line")} of ${plural(lines.length, "line")}` : plural(lines.length, "line")}</span>
        <button type="button" aria-pressed={follows} onClick={() => setFollows(!follows)}>
          {follows ? "Hold" : "Follow"}
        </button>
      </header>
      <div
        class="log mono"
        ref={box}
        role="log"
        aria-label={`Lines of ${pool}`}
        tabIndex={0}
        onScroll={(event) => (atEnd.current = event.currentTarget.scrollTop + event.currentTarget.clientHeight >= event.currentTarget.scrollHeight - 8)}
      >
        {shown.map(read).map(({ text, level }, index) => (
          <p key={index} class={level}>
            {text}
          </p>
        ))}
        {!shown.length && <p class="dim">{text ? "No line has this." : "Nothing is written yet."}</p>}
      </div>
      <p class="note cut mono">{file}</p>
    </section>
  );
}

const LIBRARY = /\/(site-packages|dist-packages|lib\/python[\d.]+|chappe\/(bus|worker|cli|middleware|engines|integrations))\/|^</;

function Frame({ frame: [place, code], dim }: { frame: Stack["frames"][number]; dim?: boolean }) {
  return (
    <div class={dim ? "frame dim" : "frame"}>
      <span class="mono">{place}</span>
      {code && <code>{code}</code>}
    </div>
  );
}

/** The frames of a stack; those of libraries are folded where there are others. */
function Frames({ stack, whole }: { stack: Stack; whole?: boolean }) {
  if (!stack.frames.length) return <p class="note">It runs nothing at this moment.</p>;
  const parts: Stack["frames"][] = [];
  for (const frame of stack.frames) {
    const before = parts.at(-1);
    if (before && LIBRARY.test(before[0]![0]) === LIBRARY.test(frame[0])) before.push(frame);
    else parts.push([frame]);
  }
  return (
    <div class="frames">
      {parts.map((frames, index) =>
        !LIBRARY.test(frames[0]![0]) ? (
          frames.map((frame, at) => <Frame key={at} frame={frame} />)
        ) : whole || parts.length === 1 ? (
          frames.map((frame, at) => <Frame key={at} frame={frame} dim />)
        ) : (
          <details key={index}>
            <summary class="dim">{plural(frames.length, "frame")} of Chappe and libraries</summary>
            {frames.map((frame, at) => (
              <Frame key={at} frame={frame} dim />
            ))}
          </details>
        ),
      )}
    </div>
  );
}

/** Return of several stacks of one message the one that says most: that of the thread where there is one. */
function telling(stacks: Stack[]): Stack[] {
  const own = stacks.filter((one) => one.frames.some(([place]) => !LIBRARY.test(place)));
  return own.length ? own : stacks.slice(-1);
}

/** Ask a process for its stacks, all of them or those of one message. */
function useStacks(pid: number | null, message?: string): { stacks: Stack[] | null; at: number; look: () => Promise<void> } {
  const [found, keep] = useState<{ stacks: Stack[] | null; at: number }>({ stacks: null, at: 0 });
  const look = async () => {
    try {
      const told = await post<{ at: number; stacks: Stack[] }>(`processes/${pid}/stacks`);
      keep({ at: told.at, stacks: told.stacks.filter((one) => !message || one.message === message) });
    } catch (error) {
      tell(error instanceof Error ? error.message : String(error), true);
    }
  };
  return { ...found, look };
}

/** What a message that runs does at this moment, in the process that runs it. */
export function RunningStack({ message, process }: { message: string; process: string }) {
  const pid = Number(overview.value?.clients.find((one) => one.name === process)?.info.pid) || null;
  const { stacks, at, look } = useStacks(pid, message);
  return (
    <Panel
      title="What it does now"
      aside={
        <>
          {stacks && <span class="dim">at {clock(at)}</span>}
          <Act need="logs" run={look} disabled={pid === null}>
            {stacks ? "Look again" : "Show its stack"}
          </Act>
        </>
      }
    >
      {stacks === null && <p class="note">Its process is asked where it is in the code; what it does goes on.</p>}
      {stacks?.length === 0 && <p class="note">It was not running any more at that moment, or its handler runs in a process of its own.</p>}
      {stacks && telling(stacks).map((one) => <Frames key={one.name} stack={one} />)}
    </Panel>
  );
}

export function Process() {
  const pid = Number(route.value.rest) || null;
  const client = overview.value?.clients.find((one) => one.info.pid === pid);
  const { stacks, at, look } = useStacks(pid);
  useEffect(() => void look(), [pid]);
  const busy = stacks?.filter((one) => one.message) ?? [];
  const rest = stacks?.filter((one) => !one.message) ?? [];
  return (
    <>
      <div class="over">
        <h2>{client?.name ?? `Process ${pid}`}</h2>
        <span class="dim">{stacks ? `as it was ${Math.max(0, Math.round(now.value - at))} s ago` : ""}</span>
        <Act need="logs" run={look}>
          Look again
        </Act>
      </div>
      {stacks && busy.length === 0 && (
        <Panel title="Messages">
          <Empty title="It runs no message at this moment" />
        </Panel>
      )}
      {busy.map((one) => (
        <Panel key={one.name} title={one.name} aside={<a class="mono" href={to("message", one.message!)}>{one.message}</a>}>
          <Frames stack={one} />
        </Panel>
      ))}
      {rest.length > 0 && (
        <Panel title={`The rest of it, ${plural(rest.length, "stack")}`}>
          {rest.map((one) => (
            <details key={one.name}>
              <summary>
                {one.name} <span class="dim mono">{one.frames.at(-1)?.[0].split("/").at(-1)}</span>
              </summary>
              <Frames stack={one} whole />
            </details>
          ))}
        </Panel>
      )}
    </>
  );
}
