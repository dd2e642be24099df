"""`make demo`: about 30 seconds of a back office, with one channel misbehaving, checked against what the calendars must be."""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from channel_manager.bookings import BackOfficeAction, apply, find_bookings, replay
from channel_manager.check import differences
from channel_manager.stage import Stage
from demos import leave_running, options_of, servers

_MISBEHAVES = {"from": 0.25, "until": 0.6}
_CHANNEL = "nimbus"
_WELL: tuple[str, Mapping[str, float]] = ("well", {})
_MANNERS: list[tuple[str, Mapping[str, float]]] = [
    ("busy", {"share": 0.7, "retry_after": 1}),
    ("drops", {"share": 0.5}),
    ("slow", {"seconds": 0.5}),
]
_SETTLE = 60.0


class BackOffice:
    """Replays bookings: each changes the database, then posts a mask; counts what it was answered."""

    def __init__(self, stage: Stage, rate: float) -> None:
        self._stage = stage
        self._rate = rate
        self._stop = threading.Event()
        self._actions: Iterator[BackOfficeAction] = itertools.chain(replay())
        self.done = 0
        self.answers: dict[int, int] = {}
        self.seconds: deque[float] = deque(maxlen=2000)
        self.ended = False

    def run(self) -> None:
        """Work at the rate until stopped or out of bookings."""
        started = time.monotonic()
        # The clerks are the inner ones: they finish their last posts before the client is closed.
        with httpx2.Client(timeout=30.0, trust_env=False) as http, ThreadPoolExecutor(8) as clerks:
            for number, action in enumerate(self._actions):
                pause = started + number / self._rate - time.monotonic()
                if self._stop.wait(max(0.0, pause)):
                    break
                apply(self._stage.properties, action)
                clerks.submit(self._post, http, action)
        self.ended = True

    def _post(self, http: httpx2.Client, action: BackOfficeAction) -> None:
        what = "rates" if action.kind == "rate" else "availability"
        body = {"property_id": action.property_id, "what": [what]}
        started = time.perf_counter()
        try:
            answer = http.post(f"{self._stage.gateway_url}/commands/sync.property", json=body)
        except httpx2.HTTPError:
            self.answers[0] = self.answers.get(0, 0) + 1
            return
        self.seconds.append(time.perf_counter() - started)
        self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
        self.done += 1

    def stop(self) -> None:
        """Let the clerks go home."""
        self._stop.set()


class Board:
    """The live table."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int]] = {}

    def draw(self, stage: Stage, office: BackOffice, note: str) -> Group:
        """Return what is going on now."""
        queues, stats = stage.queues(), stage.stats()
        table = Table(title="channel manager", title_justify="left", header_style="bold")
        for column in ("queue", "ready", "running", "delayed", "done", "per s", "dead", "p50", "p99"):
            table.add_column(column, justify="left" if column == "queue" else "right")
        for name, queue in queues.items():
            latency = stats["channels"].get(name.removeprefix("push."), {}).get("latency") if name.startswith("push.") else None
            cells = [str(queue.get(key, "")) for key in ("ready", "running", "delayed", "done")]  # servers do not tell how many are done
            table.add_row(
                name,
                *cells,
                f"{self._rate_of(name, queue['done']):.0f}" if "done" in queue else "",
                str(queue["dead"]),
                _ms(latency, "p50"),
                _ms(latency, "p99"),
            )
        p50, p99 = percentiles(office.seconds)
        line = f"back office: {office.done} masks posted, answered in p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"
        legend = "p50 and p99: from the request to the channel's answer, retries included"
        return Group(table, Text(line), Text(legend, style="dim"), Text(note, style="bold yellow" if note else ""))

    def _rate_of(self, name: str, done: int) -> float:
        now = time.monotonic()
        then, before = self._before.get(name, (now, done))
        if now - then > 1.0 or name not in self._before:
            self._before[name] = (now, done)
        return (done - before) / (now - then) if now > then else 0.0


def percentiles(seconds: deque[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, zero for nothing."""
    ordered = sorted(seconds) or [0.0]
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def _ms(latency: Mapping[str, Any] | None, key: str) -> str:
    return "" if latency is None else f"{latency[key] * 1000:.0f} ms"


def play(stage: Stage, console: Console, seconds: float, rate: float) -> BackOffice:
    """Replay for some seconds while one channel misbehaves in the middle."""
    office = BackOffice(stage, rate)
    worker = threading.Thread(target=office.run, name="back-office")
    worker.start()
    try:
        return watch(stage, console, seconds, office)
    finally:
        office.stop()
        worker.join()


def watch(stage: Stage, console: Console, seconds: float, office: BackOffice) -> BackOffice:
    """Show what goes on, and have the channel misbehave in its time."""
    board = Board()
    started = time.monotonic()
    manners = iter(_MANNERS)
    begin, end = seconds * _MISBEHAVES["from"], seconds * _MISBEHAVES["until"]
    turn = (end - begin) / 3
    changes = [begin, begin + turn, begin + 2 * turn, end]
    note = ""
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while (passed := time.monotonic() - started) < seconds:
            if changes and passed >= changes[0]:
                changes.pop(0)
                manner, more = next(manners, _WELL)
                stage.manner(_CHANNEL, manner, **more)
                note = "" if manner == "well" else f"{_CHANNEL} misbehaves: {manner} {more}"
            drawing = board.draw(stage, office, note)
            if console.is_terminal:
                live.update(drawing, refresh=True)
            elif int(passed * 2) % 10 == 0:
                console.print(drawing)
            time.sleep(0.5)
        office.stop()
        note = "the back office went home; waiting until every channel knows everything"
        deadline = time.monotonic() + _SETTLE
        while not (office.ended and stage.idle()) and time.monotonic() < deadline:
            live.update(board.draw(stage, office, note), refresh=console.is_terminal)
            time.sleep(0.2)
        live.update(board.draw(stage, office, ""), refresh=True)
    return office


def report(stage: Stage, office: BackOffice, console: Console) -> bool:
    """Print the summary and say whether everything is as it must be."""
    wrong = differences(stage.properties, stage.state())
    stats = stage.stats()
    queues = stage.queues()
    pushed = sum(sum(n for outcome, n in c["outcomes"].items() if outcome in ("ok", "repeated")) for c in stats["channels"].values())
    trouble = {k: v for k, v in sorted(stats["channels"][_CHANNEL]["outcomes"].items()) if k not in ("ok", "repeated")}
    console.print()
    console.print(f"bookings from      {find_bookings()}")
    console.print(f"masks posted       {office.done}, answers by status: {office.answers}")
    if "done" in queues["compute"]:
        console.print(f"masks computed     {queues['compute']['done']} (those pending for one property were merged)")
    console.print(f"pushes taken       {pushed} by three channels; {_CHANNEL} meanwhile: {trouble or 'no trouble'}")
    console.print(f"dead letters       {sum(q['dead'] for q in queues.values())}")
    checked = sum(1 for listing in stage.properties.every_listing() if listing.status == "open")
    if wrong:
        console.print(f"[bold red]calendars          {len(wrong)} differences[/], the first: {wrong[0]}")
    else:
        console.print(f"[bold green]calendars          all {checked} listings show exactly what the property database says[/]")
    lost = office.answers.keys() - {202}
    console.print()
    console.print("look at next       examples/channel_manager/README.md · messages.py · compute.py · push.py")
    console.print(f"what was logged    {stage.folder}/chappe.log")
    console.print(f"                   {' '.join(f'{name}={url}' for name, url in stage.urls.items())} .venv/bin/chappe queues")
    return not wrong and not lost and stage.idle()


def main() -> None:
    """Run the demo; the exit code is 0 only if every calendar is right."""
    options = options_of(__doc__, "file", "postgres", "rabbitmq")
    options.add_argument("--seconds", type=float, default=30.0, help="how long the back office works")
    options.add_argument("--rate", type=float, default=100.0, help="bookings and cancellations a second")
    chosen = options.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    folder = (chosen.folder or Path(tempfile.mkdtemp(prefix="chappe-demo-"))).resolve()
    with servers(chosen.broker, folder, console) as urls, Stage(folder, urls=urls) as stage:
        console.print("starting three channels and chappe run …")
        stage.start_channels()
        stage.start_chappe()
        for listed in stage.properties.properties():
            stage.post_mask(listed.id, "availability", "rates")
        office = play(stage, console, chosen.seconds, chosen.rate)
        right = report(stage, office, console)
        if chosen.keep:
            console.print(f"\n[bold]left running[/] at {stage.gateway_url} (Ctrl-C ends it): try")
            console.print(f"  curl {stage.gateway_url}/api/queues")
            console.print(f"  chappe inspect push.{_CHANNEL} --state delayed   (with the CHAPPE_BROKER above)")
            leave_running(console)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
