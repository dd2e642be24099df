"""`chappe top`: one live screen of what all hosts do, what is left, and when it ends."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chappe.cli.loading import ask
from chappe.connection import Connection
from chappe.engines.contract.fleet import PROCESS_STATES, Overview, QueueStatus
from chappe.errors import BrokerError
from chappe.failures import printable
from chappe.words import duration

_SMOOTH: Final = 0.3  # of a new rate in the moving average
_BAR: Final = 10
_STATES: Final = dict(zip(PROCESS_STATES, ("green", "yellow", "yellow", "bold red"), strict=True))


class Rates:
    """How many messages of each queue end in a second, from one look to the next."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}
        self._at = 0.0
        self._rates: dict[str, float] = {}

    def look(self, overview: Overview, now: float) -> dict[str, float]:
        """Take what ended by now, and return the rates."""
        counts: dict[str, float] = {queue.name: queue.done for queue in overview.queues if queue.done is not None}
        if not counts:  # the broker does not count, the workers do
            for supervisor in overview.supervisors:
                for name, _, (ran, _) in supervisor.get("times", ()):
                    counts[name] = counts.get(name, 0) + sum(ran)
        passed = now - self._at
        for name, count in counts.items():
            if name in self._counts and passed > 0:
                rate = max(0.0, count - self._counts[name]) / passed
                before = self._rates.get(name)
                self._rates[name] = rate if before is None else before + _SMOOTH * (rate - before)
        self._counts, self._at = counts, now
        return dict(self._rates)


@click.command()
@click.option("-n", "--every", default=1.0, show_default=True, type=click.FloatRange(0.2, 60.0), help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Print one picture and end, as also where stdout is no terminal.")
@click.pass_context
def top(ctx: click.Context, every: float, once: bool) -> None:
    """Show processors, pools and queues live: how old and how fast, what is left, and when it ends. Ctrl-C ends it."""
    console = Console(highlight=False)
    once = once or not sys.stdout.isatty()

    async def work(connection: Connection) -> None:
        rates = Rates()
        rates.look(await connection.store.overview(), time.monotonic())
        await asyncio.sleep(min(every, 1.0))
        if once:
            overview = await connection.store.overview()
            console.print(picture(overview, rates.look(overview, time.monotonic()), time.time()))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    overview = await connection.store.overview()
                    live.update(picture(overview, rates.look(overview, time.monotonic()), time.time()), refresh=True)
                except BrokerError as error:
                    live.update(Text(f"waiting for the broker: {error}", style="red"), refresh=True)
                await asyncio.sleep(every)

    try:
        ask(ctx, work)
    except KeyboardInterrupt:
        return


def picture(overview: Overview, rates: Mapping[str, float], now: float) -> RenderableType:
    """Return what is to be seen of an overview."""
    supervisors = sorted(overview.supervisors, key=lambda told: str(told.get("host")))
    parts: list[RenderableType] = [_head(overview, rates, now)]
    parts += [part for supervisor in supervisors for part in (Text(""), _host(supervisor), _pools(supervisor))]
    if not supervisors:
        parts += [Text(""), Text("no supervisor is connected: start chappe run", style="yellow")]
    return Group(*parts, Text(""), _queues(overview.queues, rates, now))


def _head(overview: Overview, rates: Mapping[str, float], now: float) -> Text:
    queues = [queue for queue in overview.queues if not queue.temporary]
    left = sum(queue.ready + queue.running for queue in queues)
    dead, rate = sum(queue.dead for queue in queues), sum(rates.values())
    text = Text()
    text.append("chappe top", style="bold").append(f"  {time.strftime('%H:%M:%S', time.localtime(now))}  {overview.engine.path}\n")
    text.append(f"{left:,} left", style="bold").append(f"   {rate:,.1f}/s   ").append(_end(left, rate, now), style="bold cyan")
    if dead:
        text.append(f"   {dead:,} dead", style="red")
    if overview.engine.full:
        text.append("   the disk is full", style="bold red")
    return text


def _end(left: int, rate: float, now: float) -> str:
    """Return when what is left will be done, as far as the rate of now tells."""
    if not left:
        return "nothing is left"
    if rate < 0.01:
        return "stands still"
    seconds = left / rate
    day = "%H:%M:%S" if seconds < 12 * 3600 else "%a %H:%M"
    return f"ends in {duration(seconds)}, at {time.strftime(day, time.localtime(now + seconds))}"


def _host(supervisor: Mapping[str, Any]) -> Text:
    """Return the processors of a host, and what its governor says."""
    text = Text(str(supervisor.get("host", "")), style="bold")
    seen: Mapping[str, Any] = supervisor.get("pressure") or {}
    for number, core in enumerate(seen.get("cores", ())):
        text.append(f"   {number} ", style="dim").append_text(_bar(core))
    if seen.get("stalled") is not None:
        text.append(f"   waiting for a processor {seen['stalled']:.0%}", style="yellow" if seen["stalled"] > 0.4 else "dim")
    if seen.get("limit") is not None:
        limit, slots = seen["limit"], seen["slots"]
        text.append(f"\ngovernor  {limit} of {slots} slots", style="yellow" if limit < slots else "green")
        if seen.get("probe") is not None:
            text.append(f"   probe {seen['probe'] * 1000:.0f} ms, {seen['slow']:.1f} × quiet", style="red" if seen["slow"] > 1.3 else "")
        text.append(f"   {seen['why']}", style="dim")
    return text


def _bar(percent: float) -> Text:
    """Return a bar of ten places with its number."""
    full = round(percent / 100 * _BAR)
    colour = "red" if percent > 85 else "yellow" if percent > 60 else "green"
    return Text("█" * full, style=colour).append("░" * (_BAR - full), style="dim").append(f" {percent:3.0f} %", style="")


def _table(columns: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for name, side in columns:
        table.add_column(name, justify="right" if side == ">" else "left", no_wrap=side != "~", overflow="ellipsis")
    return table


def _pools(supervisor: Mapping[str, Any]) -> Table:
    table = _table(
        [("pool", "<"), ("processes", "<"), ("in use", ">"), ("of slots", ">"), ("per s", ">"), ("each", ">"), ("MiB", ">"), ("state", "<")]
    )
    for name, pool in supervisor["pools"].items():
        least, most = pool["bounds"]
        states = [process["state"] for process in pool["processes"]]
        state = Text()
        for one, style in _STATES.items():
            if one in states and (one != "ready" or len(set(states)) > 1):
                state.append(f"{states.count(one)} {one} ", style=style)
        load: Mapping[str, Any] = pool.get("load") or {}
        why = pool.get("why")
        if least != most and why:
            state.append(f"{why}; {load.get('arrivals', 0):.1f}/s arrive", style="dim")
        table.add_row(
            Text(printable(name), style="bold"),
            f"{states.count('ready')}"
            + (f" of {least}..{most}" if least != most else "" if states.count("ready") == most else f" of {most}"),
            str(pool.get("busy", 0)),
            str(pool["slots"] * len(states)),
            f"{pool.get('rate', 0):,.1f}",
            _short(load.get("seconds")),
            f"{sum(process['memory'] for process in pool['processes']):,}",
            state,
        )
    return table


def _short(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else duration(seconds)


def _queues(queues: Sequence[QueueStatus], rates: Mapping[str, float], now: float) -> Table:
    table = _table(
        [("queue", "<"), ("ready", ">"), ("running", ">"), ("delayed", ">"), ("dead", ">"), ("oldest", ">"), ("per s", ">"), ("", "<")]
    )
    for queue in sorted(queues, key=lambda queue: -(queue.ready + queue.running)):
        if queue.temporary:
            continue
        left, rate = queue.ready + queue.running, rates.get(queue.name, 0.0)
        end = Text("paused", style="yellow") if queue.paused else Text(_end(left, rate, now) if left else "", style="cyan")
        if left and not queue.consumers:
            end = Text("nobody serves it", style="bold red")
        table.add_row(
            Text(printable(queue.name), style="bold" if left else "dim"),
            f"{'~' if queue.is_estimate else ''}{queue.ready:,}",
            f"{queue.running:,}",
            f"{queue.delayed:,}",
            Text(f"{queue.dead:,}", style="red" if queue.dead else ""),
            "" if queue.oldest is None else duration(queue.oldest),
            f"{rate:,.1f}" if rate else "",
            end,
        )
    return table
