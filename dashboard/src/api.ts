// The JSON API of the gateway, as /openapi.json describes it: its types, how it is asked, and the token that may be needed.
import { signal } from "@preact/signals";

export type State = "delayed" | "ready" | "running" | "done" | "dead";

export interface Queue {
  name: string;
  bindings: [exchange: string, key: string][];
  origin: string;
  ready: number;
  running: number;
  delayed: number;
  dead: number;
  consumers: number;
  temporary?: boolean;
  is_estimate?: boolean;
  paused?: boolean;
  oldest?: number;
  published?: number;
  done?: number;
  retried?: number;
  died?: number;
}

export interface Process {
  name: string;
  pid: number | null;
  state: string;
  starts: number;
  crashes: number;
  memory: number | null;
}

export interface Pool {
  queues: string[];
  exclude: string[];
  bounds: [number, number];
  wanted: number;
  slots: number;
  busy: number;
  rate: number;
  load: unknown;
  wants: number | null;
  why: string | null;
  max_wait: number;
  processes: Process[];
}

export interface Pressure {
  cpu: number;
  cores: number[];
  stalled: number | null;
  probe: number | null;
  slots: number;
  limit?: number;
  slow?: boolean;
  why?: string;
}

export interface Host {
  pid: number;
  host: string;
  pools: Record<string, Pool>;
  pressure: Pressure | null;
}

export interface Client {
  name: string;
  role: string;
  holding: number;
  info: Record<string, unknown>;
  connected_at?: number;
}

export interface Exchange {
  name: string;
  kind: string;
  archive: number;
}

export interface Overview {
  application: string;
  version: string;
  now: number;
  intake: "open" | "paused";
  engine: { path: string; full?: boolean; pid?: number; started_at?: number; sqlite?: string; postgres?: string; broker?: string };
  queues: Queue[];
  exchanges: Exchange[];
  /** How many were published to each exchange, and delivered to queues, where the engine counts that. */
  passed?: Record<string, [published: number, delivered: number]>;
  hosts: Host[];
  clients: Client[];
}

export interface Message {
  id: string;
  type: string;
  queue: string;
  state: State;
  attempt: number;
  deaths?: number;
  priority?: number;
  sent_at?: number | null;
  due?: number | null;
  key?: string | null;
  budget?: string | null;
  runs_on?: string | null;
  /** Whether it has started there, of what is running; true where nothing is said. */
  begun?: boolean;
  size?: number;
  number?: number | null;
  reason?: string | null;
  error?: string | null;
}

export interface Place extends Message {
  body?: unknown;
  headers?: Record<string, unknown>;
  history?: [at: number, attempt: number, error: string][];
  died_at?: number | null;
  why?: Why[];
}

export interface Why {
  reason: string;
  text: string;
  until?: number | null;
  of?: string | null;
}

export interface Tracked {
  state: string;
  result?: unknown;
  error?: string | null;
  progress?: unknown;
  merged_into?: string | null;
}

export interface Life {
  id: string;
  places: Place[];
  tracked: Tracked | null;
  archived?: { seq: number; at: number; exchange: string; routing_key: string }[];
}

export interface Node {
  id: string;
  type: string;
  kind: string;
  state?: string | null;
  at?: number | null;
  ended_at?: number | null;
  queue?: string | null;
  cause?: string | null;
  text?: string | null;
}

export interface Group {
  fingerprint: string;
  type: string;
  queue: string;
  handler: string | null;
  error: string;
  place: string | null;
  count: number;
  /** Others that have failed of it and wait for another attempt. */
  waiting?: number;
  first_at: number;
  last_at: number;
  state: "open" | "resolved" | "ignored";
  occurrences: [at: number, count: number][];
  who?: string | null;
}

export interface Letter {
  number: number;
  id: string;
  type: string;
  queue: string;
  reason: string;
  error: string | null;
  attempts: number;
  deaths?: number;
  died_at: number;
}

export interface WholeLetter extends Letter {
  body: unknown;
  headers?: Record<string, unknown>;
  history?: [at: number, attempt: number, error: string][];
  traceback?: string | null;
}

export interface Batch {
  id: string;
  state: "counting" | "running" | "over";
  total: number;
  began_at: number;
  waiting?: number | null;
  done?: number | null;
  dead?: number | null;
  type?: string | null;
  queue?: string | null;
  rate?: number | null;
  left?: number | null;
}

export interface Schedule {
  name: string;
  trigger: string;
  message: string;
  misfire: string;
  last: number | null;
  next: number | null;
  paused: boolean;
}

export interface Point {
  at: number;
  ready: number;
  running: number;
  delayed: number;
  dead: number;
  oldest: number | null;
  published: number | null;
  done: number | null;
  retried: number | null;
  died: number | null;
}

export interface Entry {
  number: number;
  at: number;
  who: string;
  what: string;
  value: string | null;
}

export interface Alert {
  name: string;
  text: string;
  since: number;
  value?: number | string | null;
}

export interface Budget {
  name: string;
  opens: number;
  interval: number;
  burst: number;
  is_learned: boolean;
  limit: number | null;
  window: number | null;
  since: number | null;
  left: number | null;
}

export interface Stack {
  name: string;
  message: string | null;
  frames: [place: string, code: string][];
}

export interface Me {
  name: string;
  permissions: string[];
}

/** What the gateway refused, in its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    title: string,
    readonly detail: string,
  ) {
    super(detail ? `${title}: ${detail}` : title);
  }
}

const KEY = "chappe.token";
const ROOT = new URL("../api/", document.baseURI);

/** Whether the gateway wants a token that is not here. */
export const locked = signal(false);
export const wasWrong = signal(false);
export const entered = signal(0);

export function enter(token: string): void {
  sessionStorage.setItem(KEY, token);
  locked.value = false;
  entered.value += 1;
}

export function leave(): void {
  sessionStorage.removeItem(KEY);
  wasWrong.value = false;
  locked.value = true;
}

export function hasToken(): boolean {
  return sessionStorage.getItem(KEY) !== null;
}

/** Ask the API and return its answer as it is. Throws `Refused`, or a `TypeError` where nobody answers. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const token = sessionStorage.getItem(KEY);
  const headers = new Headers(init.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const response = await fetch(new URL(path, ROOT), { ...init, headers });
  if (response.ok) return response;
  if (response.status === 401) {
    wasWrong.value = token !== null;
    sessionStorage.removeItem(KEY);
    locked.value = true;
  }
  const told = (await response.json().catch(() => ({}))) as { title?: string; detail?: string };
  throw new Refused(response.status, told.title ?? `The gateway answered ${response.status}`, told.detail ?? "");
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, signal ? { signal } : {})).json()) as T;
}

export async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const init = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const text = await (await ask(path, init)).text();
  return (text ? JSON.parse(text) : {}) as T;
}

/** Write an address with its question, without what is empty. */
export function address(path: string, question: Record<string, string | number | null | undefined>): string {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(question)) if (value !== null && value !== undefined && value !== "") asked.set(name, String(value));
  return asked.size ? `${path}?${asked}` : path;
}

export const name = encodeURIComponent;
