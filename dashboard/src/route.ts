// Where the page is, in the fragment of its address: it works below any path, and a link to it can be sent.
import { signal } from "@preact/signals";

export interface Route {
  page: string;
  rest: string;
  asked: URLSearchParams;
}

function read(): Route {
  const [path = "", question = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "", ...rest] = path.split("/");
  return { page: page || "overview", rest: decodeURIComponent(rest.join("/")), asked: new URLSearchParams(question) };
}

export const route = signal<Route>(read());
addEventListener("hashchange", () => (route.value = read()));

export function to(page: string, rest = "", asked: Record<string, string> = {}): string {
  const question = new URLSearchParams(Object.entries(asked).filter(([, value]) => value)).toString();
  return `#/${page}${rest ? `/${encodeURIComponent(rest)}` : ""}${question ? `?${question}` : ""}`;
}

export function go(hash: string, replace = false): void {
  if (replace) {
    history.replaceState(null, "", hash);
    route.value = read();
  } else location.hash = hash;
}
