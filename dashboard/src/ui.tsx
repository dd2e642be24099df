// The pieces that pages are made of.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { get, locked, post, Refused, type State } from "./api";
import { link, me, now } from "./live";
import { clock, count, exact, span } from "./words";

export const STATES: State[] = ["delayed", "ready", "running", "done", "dead"];

/** A number in the colour of its state, dim where it is none. */
export function Num({ value, state, about }: { value: number; state?: string; about?: boolean }) {
  return (
    <span class={`num ${value ? (state ?? "") : "zero"}`}>
      {about ? "~" : ""}
      {count(value)}
    </span>
  );
}

export function Badge({ state }: { state: string }) {
  return <span class={`badge ${state}`}>{state}</span>;
}

export function At({ at }: { at: number | null | undefined }) {
  return at === null || at === undefined ? <span class="dim">–</span> : <time dateTime={exact(at)} title={exact(at)}>{clock(at)}</time>;
}

export function Ago({ at }: { at: number }) {
  const seconds = now.value - at;
  return (
    <time dateTime={exact(at)} title={exact(at)}>
      {seconds < 0 ? `in ${span(-seconds)}` : `${span(Math.floor(seconds))} ago`}
    </time>
  );
}

/** A curve without axes; what is not known yet is left out. */
export function Spark({ points, label, tone = "done" }: { points: (number | null)[]; label: string; tone?: string }) {
  const most = Math.max(1e-9, ...points.map((one) => one ?? 0));
  const width = points.length - 1;
  const known = points.map((value, index) => (value === null ? null : ([index, 22 - (value / most) * 20] as const))).filter((one) => one !== null);
  const line = known.map(([x, y]) => `${x},${y.toFixed(1)}`).join(" ");
  return (
    <svg class={`spark ${tone}`} viewBox={`0 0 ${width} 24`} preserveAspectRatio="none" role="img" aria-label={label}>
      {known.length > 1 && (
        <>
          <polygon points={`${known[0]![0]},23 ${line} ${known.at(-1)![0]},23`} />
          <polyline points={line} />
        </>
      )}
    </svg>
  );
}

/** How many there were in each part of a span. */
export function Bars({ counts, label }: { counts: number[]; label: string }) {
  const most = Math.max(1, ...counts);
  return (
    <svg class="bars" viewBox={`0 0 ${counts.length} 24`} preserveAspectRatio="none" role="img" aria-label={label}>
      {counts.map((count, index) => {
        const high = count ? Math.max(2, (count / most) * 23) : 0.6;
        return <rect key={index} x={index + 0.1} y={24 - high} width={0.8} height={high} class={count ? "some" : ""} />;
      })}
    </svg>
  );
}

/** How much of what there is is used. */
export function Meter({ used, of, label, tone = "" }: { used: number; of: number; label: string; tone?: string }) {
  const share = of ? Math.min(1, used / of) : 0;
  return (
    <span class={`meter ${tone}`} role="meter" aria-valuenow={used} aria-valuemin={0} aria-valuemax={Math.max(of, used, 1)} aria-label={label}>
      <span style={{ transform: `scaleX(${share.toFixed(3)})` }} />
    </span>
  );
}

export function Panel({ title, aside, children, flush }: { title: string; aside?: ComponentChildren; children: ComponentChildren; flush?: boolean }) {
  return (
    <section class={`panel ${flush ? "flush" : ""}`} aria-label={title}>
      <header>
        <h2>{title}</h2>
        {aside && <div class="aside">{aside}</div>}
      </header>
      {children}
    </section>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <strong>{title}</strong>
      {children && <p>{children}</p>}
    </div>
  );
}

export function Fault({ error, again }: { error: Error; again: () => void }) {
  const gone = !(error instanceof Refused);
  const missing = error instanceof Refused && error.status === 404;
  return (
    <div class="empty fault" role="alert">
      <strong>{gone ? "The gateway does not answer" : error.message}</strong>
      <p>
        {gone
          ? "It is asked again by itself. If it stays so, look at the terminal or the log of chappe run."
          : missing
            ? "It is not there any more, or this version of the gateway does not have it."
            : "What is shown may be old."}
      </p>
      <button type="button" onClick={again}>
        Try again
      </button>
    </div>
  );
}

export interface Asked<T> {
  data: T | null;
  error: Error | null;
  again: () => void;
}

/** Ask the API, again each `every` seconds and when a connection is back; what was there stays until the new is there. */
export function useAsked<T>(path: string | null, every = 5): Asked<T> {
  const [found, keep] = useState<{ path: string | null; data: T | null; error: Error | null }>({ path, data: null, error: null });
  const [turn, setTurn] = useState(0);
  const live = link.value;
  useEffect(() => {
    if (path === null || locked.value) return;
    const stop = new AbortController();
    let timer = 0;
    const look = async () => {
      let pause = every;
      try {
        const data = await get<T>(path, stop.signal);
        keep({ path, data, error: null });
      } catch (error) {
        if (stop.signal.aborted) return;
        const isGone = error instanceof Refused && error.status === 404;
        if (isGone) pause = 30;
        keep((before) => ({ path, data: before.path === path && !isGone ? before.data : null, error: error as Error }));
      }
      if (!stop.signal.aborted) timer = window.setTimeout(() => void look(), pause * 1000);
    };
    void look();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [path, turn, live === "live", locked.value]);
  return { data: found.path === path ? found.data : null, error: found.path === path ? found.error : null, again: () => setTurn((n) => n + 1) };
}

/** Show what was asked for, or why it is not there, without a jump. */
export function Loaded<T>({ asked, children }: { asked: Asked<T>; children: (data: T) => ComponentChildren }) {
  if (asked.data) return <>{children(asked.data)}</>;
  return asked.error ? <Fault error={asked.error} again={asked.again} /> : <div class="empty loading" aria-busy="true">Loading…</div>;
}

interface Notice {
  id: number;
  text: string;
  bad: boolean;
}

export const notices = signal<Notice[]>([]);
let notice = 0;

export function tell(text: string, bad = false): void {
  const id = ++notice;
  notices.value = [...notices.value.slice(-3), { id, text, bad }];
  setTimeout(() => (notices.value = notices.value.filter((one) => one.id !== id)), bad ? 12_000 : 5_000);
}

/** Have the gateway act, and say what came of it; returns its answer, or null where it was refused. */
export async function act<T>(path: string, body: unknown, said: string | ((answer: T) => string)): Promise<T | null> {
  try {
    const answer = await post<T>(path, body);
    tell(typeof said === "string" ? said : said(answer));
    return answer;
  } catch (error) {
    tell(error instanceof Error ? error.message : String(error), true);
    return null;
  }
}

/** A button that acts; who may only read sees it disabled, with the reason. */
export function Act({ run, children, tone = "", label, disabled, need = "act" }: { run: () => unknown; children: ComponentChildren; tone?: string; label?: string; disabled?: boolean; need?: "act" | "admin" | "logs" }) {
  const [busy, setBusy] = useState(false);
  const denied = !me.value.permissions.includes(need);
  const click = async () => {
    setBusy(true);
    await run();
    setBusy(false);
  };
  return (
    <button
      type="button"
      class={tone}
      aria-label={label}
      disabled={busy || denied || disabled}
      title={denied ? `It needs the permission “${need}”, which the role of ${me.value.name || "this user"} does not have` : undefined}
      onClick={() => void click()}
    >
      {children}
    </button>
  );
}

interface Question {
  title: string;
  text: string;
  yes: string;
  answered: (yes: boolean) => void;
}

const question = signal<Question | null>(null);

/** Ask whether something that cannot be undone is meant. */
export function sure(title: string, text: string, yes: string): Promise<boolean> {
  return new Promise((answered) => (question.value = { title, text, yes, answered }));
}

export function Sure() {
  const asked = question.value;
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (asked) box.current?.showModal();
  }, [asked]);
  if (!asked) return null;
  const answer = (yes: boolean) => {
    question.value = null;
    asked.answered(yes);
  };
  return (
    <dialog ref={box} aria-labelledby="sure" onCancel={() => answer(false)}>
      <h2 id="sure">{asked.title}</h2>
      <p>{asked.text}</p>
      <div class="buttons">
        <button type="button" onClick={() => answer(false)}>
          Cancel
        </button>
        <button type="button" class="danger" onClick={() => answer(true)}>
          {asked.yes}
        </button>
      </div>
    </dialog>
  );
}

const AHEAD = 8; // rows that are drawn before they are seen, so that not each step draws anew

/** Rows of one height, of which only those in sight are in the document. */
export function Rows<T>({ rows, height, row, id, label, head }: { rows: T[]; height: number; row: (one: T) => ComponentChildren; id: (one: T) => string; label: string; head: ComponentChildren }) {
  const box = useRef<HTMLDivElement>(null);
  const [[from, until], setSeen] = useState<[number, number]>([0, 40]);
  useLayoutEffect(() => {
    const look = () => {
      const top = -(box.current?.getBoundingClientRect().top ?? 0);
      const first = Math.max(0, Math.floor(top / height / AHEAD) - 1) * AHEAD;
      setSeen((seen) => (seen[0] === first ? seen : [first, first + Math.ceil(innerHeight / height) + 3 * AHEAD]));
    };
    look();
    addEventListener("scroll", look, { passive: true });
    addEventListener("resize", look);
    return () => {
      removeEventListener("scroll", look);
      removeEventListener("resize", look);
    };
  }, [height]);
  const shown = rows.slice(from, until);
  return (
    <div role="table" aria-label={label} aria-rowcount={rows.length + 1} class="rows">
      <div role="rowgroup" class="head">
        {head}
      </div>
      <div role="rowgroup" ref={box} style={{ height: `${rows.length * height}px`, position: "relative" }}>
        {shown.map((one, index) => (
          <div role="row" key={id(one)} aria-rowindex={from + index + 2} class="row" style={{ height: `${height}px`, transform: `translateY(${(from + index) * height}px)` }}>
            {row(one)}
          </div>
        ))}
      </div>
    </div>
  );
}

/** A field that is found by its words, and by `/`. */
export function Search({ value, change, label, wide }: { value: string; change: (text: string) => void; label: string; wide?: boolean }) {
  return (
    <input
      type="search"
      class={wide ? "wide" : ""}
      placeholder={label}
      aria-label={label}
      value={value}
      data-search
      spellcheck={false}
      onInput={(event) => change(event.currentTarget.value)}
    />
  );
}

export function Json({ value, label }: { value: unknown; label: string }) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return (
    <pre tabIndex={0} aria-label={label}>
      {text ?? "–"}
    </pre>
  );
}

export function Facts({ facts, two }: { facts: [string, ComponentChildren][]; two?: boolean }) {
  return (
    <dl class={two ? "facts two" : "facts"}>
      {facts
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}
