"""Fairness: what tenants cost a drain, and how soon one starts behind the backlog of another (rows M8 and W18)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from benchmarks.drain import Sample, slope, watched
from benchmarks.scale import Scale
from benchmarks.stage import Session, until
from benchmarks.works import FAIR_DRAIN, FAIR_FIRST, Figure

_TENANTS = 1000
_FIRSTS = 10
_JOB = 10  # milliseconds


async def _rate(session: Session, how: str, queue: str, count: int, **sizes: int) -> float:
    """Return the messages a second with which one worker drains what waits."""
    async with session.stage() as stage:
        await stage.send(how, count=count, **sizes)
        async with stage.workers(1, queue, until_served=False) as workers:
            if stage.far:  # to ask a server how many are left would cost it as much as to lend them
                return (await watched(stage.tally, workers, count, 1)).rate
            samples = [Sample(time.perf_counter(), 0, 0.0)]
            while samples[-1].done < count:
                await asyncio.sleep(0.01)
                samples.append(Sample(time.perf_counter(), count - await stage.left(queue), 0.0))
    return slope(samples, count).rate


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Drain without tenants and with a thousand, then have one come behind the backlog of another."""
    without = await _rate(session, "fill", "noop", scale.drained)
    yield Figure(FAIR_DRAIN, await _rate(session, "fill_shared", "shared", scale.drained, tenants=_TENANTS) / without)
    async with session.stage() as stage, stage.workers(1, "shared", until_served=not stage.far):
        await stage.send("behind", count=scale.drained, firsts=_FIRSTS, milliseconds=_JOB)
        await until(stage.tally.values, "the first message of the second tenant to start")
        yield Figure(FAIR_FIRST, 1e3 * stage.tally.values()[0])
