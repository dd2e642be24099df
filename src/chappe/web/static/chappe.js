// Chappe in a browser: follow events with positions that survive lost connections, and send commands.
//
//   import { follow, send } from "/chappe.js";
//   const following = follow("bid.*", { since: 0, on: (event) => show(event), onState: (state) => badge(state) });
//   const answer = await send("raise.bid", { lot: 7, cents: 1500 });             // over HTTP
//   const same = await following.send("raise.bid", { lot: 7, cents: 1500 });     // over the same WebSocket
//   following.close();
//
// `token` is a text, or a function that gives one, or a promise of one: it is asked again for each connection, so that it may be short-lived.
// An event has seq, at, exchange, key, id, type and body. Where history was lost, an event of type "chappe.lost" comes first.

const QUIET = 40_000; // ms without a word, though the gateway tells its position each 15 s: the connection is dead
const FIRST = 250; // ms before another try, doubled up to LONGEST, each between half and whole
const LONGEST = 10_000;

/** Hear what fits a pattern: the past since a seq, a span ("15m") or a time, then what comes. Without `since`, only what comes. */
export function follow(pattern, { since = "now", on, onState = () => {}, url = "/events", token = null, transport = "websocket" }) {
  let position = null; // of the last event that was heard, or that the gateway told
  let connection = null;
  let tries = 0;
  let timer = null;
  let closed = false;
  let ref = 0;
  const waiting = new Map(); // commands without an answer, which are said again after a lost connection, with the same key

  function address() {
    const place = new URL(url, location.href);
    place.searchParams.set("pattern", pattern);
    place.searchParams.set("since", position ?? since);
    return place;
  }

  async function open() {
    clearTimeout(timer);
    const place = address();
    const bearer = transport === "sse" ? null : await asked(token).catch(() => null);
    if (closed || connection !== null) return;
    if (transport === "sse") {
      place.searchParams.set("live", "sse");
      connection = new EventSource(place);
      connection.onerror = again;
    } else {
      place.protocol = place.protocol.replace("http", "ws");
      connection = new WebSocket(place, bearer ? ["chappe", `bearer.${bearer}`] : ["chappe"]);
      connection.onclose = again;
      connection.onopen = () => waiting.forEach((one) => mine.send(one.text));
    }
    const mine = connection;
    connection.onmessage = (message) => mine === connection && heard(JSON.parse(message.data));
    watch();
  }

  function heard(event) {
    if (event.type === "chappe.answer") {
      waiting.get(event.ref)?.resolve({ ok: event.status < 400, status: event.status, ...event.body });
      waiting.delete(event.ref);
      return watch();
    }
    position = event.seq;
    tries = 0;
    watch();
    if (event.type === "chappe.position") onState("live");
    else on(event);
  }

  function watch() {
    clearTimeout(timer);
    timer = setTimeout(again, QUIET);
  }

  function drop() {
    if (connection === null) return;
    connection.onclose = connection.onerror = connection.onmessage = null;
    connection.close();
    connection = null;
  }

  function again() {
    if (closed) return;
    drop();
    onState("waiting");
    clearTimeout(timer);
    timer = setTimeout(open, Math.min(LONGEST, FIRST * 2 ** tries++) * (0.5 + Math.random() / 2));
  }

  function atOnce() {
    if (closed) return;
    tries = 0;
    drop();
    open();
  }

  addEventListener("online", atOnce);
  addEventListener("offline", again);
  open();
  return {
    /** Send a command over this connection, which must be a WebSocket. */
    send(command, body, { key = crypto.randomUUID(), wait = 0 } = {}) {
      const text = JSON.stringify({ command, body, key, wait: wait || null, ref: ++ref });
      if (connection?.readyState === WebSocket.OPEN) connection.send(text);
      return new Promise((resolve) => waiting.set(ref, { text, resolve }));
    },
    get position() {
      return position;
    },
    close() {
      closed = true;
      removeEventListener("online", atOnce);
      removeEventListener("offline", again);
      clearTimeout(timer);
      drop();
    },
  };
}

const asked = async (token) => (typeof token === "function" ? token() : token);

/** Send a command; with `wait`, up to so many seconds for its result. Said again with the same `key`, it is taken once. */
export async function send(name, fields, { key = crypto.randomUUID(), wait = 0, url = "/commands/", token = null } = {}) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  if (wait) headers.Prefer = `wait=${wait}`;
  const bearer = await asked(token);
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  for (let tried = 0; ; tried++) {
    try {
      const answer = await fetch(url + name, { method: "POST", headers, body: JSON.stringify(fields) });
      if (answer.status !== 503 || tried >= 5) return { ok: answer.ok, status: answer.status, ...(await answer.json()) };
    } catch (error) {
      if (tried >= 5) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, FIRST * 2 ** tried * (0.5 + Math.random() / 2)));
  }
}
