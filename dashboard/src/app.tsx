// The frame around the pages: where one can go, what is live, and the keys.
import { signal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { tinykeys } from "tinykeys";
import { enter, locked, wasWrong } from "./api";
import { all, link, overview, refusal } from "./live";
import { Audit } from "./pages/audit";
import { Batch, Batches } from "./pages/batches";
import { Exchanges } from "./pages/exchanges";
import { Failure, Failures } from "./pages/failures";
import { LetterPage } from "./pages/letter";
import { Message } from "./pages/message";
import { Messages } from "./pages/messages";
import { Overview } from "./pages/overview";
import { PoolLog, Process } from "./pages/processes";
import { Queue } from "./pages/queue";
import { Queues } from "./pages/queues";
import { Schedules } from "./pages/schedules";
import { Settings } from "./pages/settings";
import { Workers } from "./pages/workers";
import { go, type Route, route, to } from "./route";
import { Empty, notices, Sure } from "./ui";
import { count } from "./words";

interface Page {
  title: string;
  key: string;
  show: ComponentType;
  /** One of them. */
  one?: ComponentType;
}

const PAGES: Record<string, Page> = {
  overview: { title: "Overview", key: "o", show: Overview },
  queues: { title: "Queues", key: "q", show: Queues, one: Queue },
  messages: { title: "Messages", key: "m", show: Messages },
  failures: { title: "Failures", key: "f", show: Failures, one: Failure },
  batches: { title: "Batches", key: "b", show: Batches, one: Batch },
  schedules: { title: "Schedules", key: "s", show: Schedules },
  workers: { title: "Workers", key: "w", show: Workers, one: PoolLog },
  exchanges: { title: "Exchanges", key: "e", show: Exchanges },
  audit: { title: "Audit", key: "a", show: Audit },
  settings: { title: "Settings", key: ",", show: Settings },
};
/** Pages that are reached from others, with the one that they belong to. */
const INNER: Record<string, { title: string; within: string; show: ComponentType }> = {
  message: { title: "Message", within: "messages", show: Message },
  process: { title: "Process", within: "workers", show: Process },
  letters: { title: "Dead letter", within: "failures", show: LetterPage },
};

interface Found {
  title: string;
  within?: string;
  show: ComponentType;
}

function find({ page, rest }: Route): Found | null {
  const inner = INNER[page];
  if (inner) return rest ? inner : null;
  const outer = PAGES[page];
  if (!outer || !rest) return outer ?? null;
  const titles: Record<string, string> = { queues: rest, workers: `${rest}, log`, batches: "Batch" };
  return outer.one ? { title: titles[page] ?? "Failure", within: page, show: outer.one } : null;
}

const isOpen = signal(false);
const explains = signal(false);

function Nav() {
  const page = find(route.value)?.within ?? route.value.page;
  return (
    <nav aria-label="Pages" class={isOpen.value ? "open" : ""}>
      <a class="brand" href={to("overview")}>
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="7" />
          <path d="M16 27V15M8 18 24 11M8 18V11M24 11V4.5" />
        </svg>
        <span>
          Chappe <small>{overview.value?.application}</small>
        </span>
      </a>
      {Object.entries(PAGES).map(([name, { title, key }]) => (
        <a key={name} href={to(name)} aria-current={page === name ? "page" : undefined} onClick={() => (isOpen.value = false)}>
          {title}
          {name === "failures" && all.value?.dead ? <span class="pill dead">{count(all.value.dead)}</span> : <kbd aria-hidden="true">g {key}</kbd>}
        </a>
      ))}
      <footer>
        <button type="button" onClick={() => (explains.value = true)}>
          Keys <kbd>?</kbd>
        </button>
        <span class="dim">{overview.value?.version}</span>
      </footer>
    </nav>
  );
}

function Link() {
  const state = link.value;
  const words = { live: "Live", lost: "Connection lost, reconnecting…", connecting: "Connecting…" }[state];
  return (
    <span class={`link ${state}`} role="status" title={state === "live" ? "" : refusal.value}>
      {words}
    </span>
  );
}

function Token() {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  return (
    <main class="token">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (field.current?.value) enter(field.current.value.trim());
        }}
      >
        <h1>Chappe</h1>
        <label for="token">This gateway wants its token, the CHAPPE_TOKEN that it was started with.</label>
        <input id="token" type="password" ref={field} autocomplete="current-password" aria-describedby="kept" aria-invalid={wasWrong.value} />
        {wasWrong.value && <p role="alert" class="wrong">This was not the token.</p>}
        <p id="kept" class="dim">It is kept in this tab until the tab is closed.</p>
        <button class="primary">Continue</button>
      </form>
    </main>
  );
}

function Keys() {
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (explains.value) box.current?.showModal();
  }, [explains.value]);
  if (!explains.value) return null;
  const keys: [string, string][] = [
    ...Object.values(PAGES).map(({ title, key }): [string, string] => [`g ${key}`, title]),
    ["/", "Search in this page"],
    ["j k", "Next and previous row"],
    ["Enter", "Open the row"],
    ["?", "This list"],
  ];
  return (
    <dialog ref={box} aria-labelledby="keys" onClose={() => (explains.value = false)}>
      <h2 id="keys">Keys</h2>
      <dl class="keys">
        {keys.map(([key, does]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{does}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog" class="buttons">
        <button>Close</button>
      </form>
    </dialog>
  );
}

function step(by: 1 | -1): void {
  const rows = [...document.querySelectorAll<HTMLElement>("[data-row]")];
  const at = rows.indexOf(document.activeElement as HTMLElement);
  rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))]?.focus();
}

function useKeys(): void {
  useEffect(() => {
    const free = (run: () => void) => (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      run();
    };
    const pages = Object.entries(PAGES).map(([name, { key }]) => [`g ${key}`, free(() => go(to(name)))] as const);
    return tinykeys(window, {
      ...Object.fromEntries(pages),
      "/": free(() => document.querySelector<HTMLElement>("[data-search]")?.focus()),
      j: free(() => step(1)),
      k: free(() => step(-1)),
      "([?])": free(() => (explains.value = true)),
      "Shift+([?])": free(() => (explains.value = true)),
    });
  }, []);
}

export function App() {
  useKeys();
  const { page } = route.value;
  const found = find(route.value);
  useEffect(() => {
    document.title = `${found?.title ?? "Not found"} · Chappe`;
    scrollTo(0, 0);
  }, [page, route.value.rest]);
  if (locked.value) return <Token />;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.querySelector<HTMLElement>("main")?.focus())}>
        Skip to the page
      </a>
      <Nav />
      <div class="page">
        <header class="top">
          <button type="button" class="menu" aria-expanded={isOpen.value} aria-label="Menu" onClick={() => (isOpen.value = !isOpen.value)}>
            ☰
          </button>
          <h1>
            {found?.within && (
              <>
                <a href={to(found.within)}>{PAGES[found.within]!.title}</a> <span class="dim">/</span>{" "}
              </>
            )}
            {found?.title ?? "Not found"}
          </h1>
          {overview.value?.intake === "paused" && <span class="badge paused">intake closed</span>}
          <Link />
        </header>
        <main tabIndex={-1} id="main">
          {found ? <found.show key={`${page}/${route.value.rest}`} /> : <Empty title="There is no such page">Choose one beside, or press ? for the keys.</Empty>}
        </main>
      </div>
      <div class="notices" role="status" aria-live="polite">
        {notices.value.map((one) => (
          <p key={one.id} class={one.bad ? "bad" : ""}>
            {one.text}
          </p>
        ))}
      </div>
      <Keys />
      <Sure />
    </>
  );
}
