"""Prints the rows, and beside each of Chappe's what it must reach and whether it does."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from benchmarks.peers.catalogue import PROMISES
from benchmarks.results import Row
from benchmarks.scale import Scale
from benchmarks.works import WORKS, Bound, Medians

_WORKS = {work.name: work for work in WORKS}


def said(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _must(bound: Bound, medians: Medians) -> str:
    limit = bound.limit(medians)
    return bound.text if limit is None or said(limit) in bound.text else f"{bound.text} ({said(limit)})"


def _aim(bound: Bound, row: Row, medians: Medians) -> str:
    kept = bound.kept(row["median"], medians)
    return f"aim {_must(bound, medians)}{'' if kept is None else ' ✓' if kept else ' ✗'}"


def verdict(row: Row, medians: Medians, *, broker: str = "file") -> tuple[str, str]:
    """Return what a row must reach, and whether it is ok, missed, or not to be known; an aim that is not reached is only told."""
    work = _WORKS[row["work"]]
    bounds, aims = (work.bounds, work.aims) if broker == "file" else (work.postgres if broker == "postgres" else work.far, ())
    if row["system"] != "chappe" or not (bounds or aims):
        return "", ""
    must = "; ".join([*(_must(bound, medians) for bound in bounds), *(_aim(bound, row, medians) for bound in aims)])
    kept = [bound.kept(row["median"], medians) for bound in bounds]
    return must, "missed" if False in kept else "?" if None in kept else "ok"


def show(rows: list[Row], medians: Medians, scale: Scale, missing: Mapping[str, str], *, broker: str = "file") -> None:
    """Print everything that was measured, and why something was not."""
    console = Console(width=max(180, Console().width))
    where = {"postgres": "PostgreSQL, ", "rabbitmq": "RabbitMQ (quorum queues) and PostgreSQL, "}.get(broker, "")
    title = f"{where}{platform.machine()}, {os.cpu_count()} cores shared by everything, Python {platform.python_version()}"
    table = Table(title=title)
    for column in ("work", "system", "promise", "median", "unit", "must reach", "", "runs"):
        table.add_column(column, justify="right" if column in ("median", "runs") else "left")
    for work, group in itertools.groupby(rows, key=lambda row: row["work"]):
        block = list(group)
        for row in block:
            must, mark = verdict(row, medians, broker=broker)
            colour = {"ok": "green", "missed": "bold red"}.get(mark, "")
            table.add_row(
                work if row is block[0] else "",
                row["system"],
                PROMISES.get(row["system"], "") if len(block) > 1 else "",
                said(row["median"]),
                row["unit"],
                must,
                f"[{colour}]{mark}[/]" if colour else mark,
                " ".join(said(value) for value in row["runs"]),
                end_section=len(block) > 1 and row is block[-1],
            )
    console.print(table)
    for system, reason in missing.items():
        console.print(f"not measured: {system}: {reason}", highlight=False)
    deep = scale.deep if broker == "file" else scale.deep_far
    console.print(
        "Peers run in their fastest settings, except huey-defaults. They send no lists: where it says by 100 they send one by one. "
        "A send that is synced waits for the disk: see what one sync takes.\n"
        f"Shallow is {scale.shallow:,} waiting, deep is {deep:,}; {scale.drained:,} are drained. "
        "Clients, servers, workers and gateway share the cores. Read ratios, not third digits.",
        highlight=False,
    )
