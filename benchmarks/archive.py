"""The archive: what it costs a publisher that each event is kept, beside the same events of an exchange that keeps none."""

from __future__ import annotations

import statistics
from collections.abc import AsyncGenerator

import psutil

from benchmarks.meters import cpu, tree
from benchmarks.scale import Scale
from benchmarks.sending import rate
from benchmarks.stage import Session
from benchmarks.works import ARCHIVE_CPU, ARCHIVED, NOT_ARCHIVED, Figure


def _spent(first: int) -> float:
    """Return the CPU seconds of a process and all below it, those that have ended included."""
    ended = psutil.Process(first).cpu_times()
    return cpu(process.pid for process in tree(first)) + ended.children_user + ended.children_system


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Publish to both in turns; each event has one subscriber's queue too, which nobody drains."""
    rates: dict[int, list[float]] = {0: [], 1: []}
    seconds = {0: 0.0, 1: 0.0}
    async with session.stage(engine=False) as stage:
        first = session.postgres().pid if stage.far else (await stage.engine()).pid
        for turn in range(2 * scale.rounds):
            for archived in (turn % 2, 1 - turn % 2):
                before = _spent(first)
                told = await stage.send("events", count=scale.sent_by_hundreds, archived=archived)
                rates[archived].append(rate(scale.sent_by_hundreds, [told]))
                seconds[archived] += _spent(first) - before + told["cpu"]
    yield Figure(ARCHIVED, statistics.median(rates[1]))
    yield Figure(NOT_ARCHIVED, statistics.median(rates[0]))
    yield Figure(ARCHIVE_CPU, seconds[0] / seconds[1])
