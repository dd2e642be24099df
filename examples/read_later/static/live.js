// While something runs, the page shows what the server would show now; without scripts it reloads itself.
"use strict";

const PAUSE = 1000;

async function refresh() {
  const main = document.getElementById("live");
  if (!main.hasAttribute("data-running")) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!main.contains(document.activeElement)) main.replaceWith(page.getElementById("live"));
      document.title = page.title;
    }
  } catch {
    // The server is away for a moment: the next turn asks again.
  }
  setTimeout(refresh, PAUSE);
}

setTimeout(refresh, PAUSE);
