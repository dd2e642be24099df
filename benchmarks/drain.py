"""Draining: a backlog that waits, and workers that begin all at once (row R18)."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from benchmarks.meters import cpu, tree
from benchmarks.scale import Scale
from benchmarks.stage import PATIENCE, Program, Session, Stage
from benchmarks.tally import Tally
from benchmarks.works import DRAIN_ONE, DRAIN_TWO, TOGETHER, WORKER_CPU, Figure

_SAMPLE = 0.01
_FROM, _TO = 0.15, 0.95


class Sample(NamedTuple):
    """What was seen at one moment of a drain."""

    at: float
    done: int
    cpu: float


class Drained(NamedTuple):
    """Messages a second, and microseconds of worker CPU for each."""

    rate: float
    cpu: float


def slope(samples: list[Sample], count: int) -> Drained:
    """Return the rate between 15 % and 95 % of the backlog, so that neither start nor end counts."""
    first = next(sample for sample in samples if sample.done >= _FROM * count)
    last = next((sample for sample in samples if sample.done >= _TO * count and sample.done > first.done), samples[-1])
    if last.done == first.done:  # so few that one look saw them all
        first = samples[0]
    done = last.done - first.done
    return Drained(done / (last.at - first.at), 1e6 * (last.cpu - first.cpu) / done)


async def drained(stage: Stage, processes: int, count: int, *, resting: int = 0) -> Drained:
    """Send a backlog to workers that are quiet, wake them, and watch `count` messages go; `resting` wait below."""
    if stage.far:
        return await _drained_far(stage, processes, count, resting)
    async with stage.workers(processes, "noop") as workers:
        deadline = time.monotonic() + PATIENCE
        while (missing := resting + count - await stage.left("noop")) > 0:  # again if a worker had not heard the signal yet
            _must_go_on(workers, deadline)
            for worker in workers:
                worker.signal(signal.SIGTSTP)  # documented: a worker then takes nothing new
            await stage.send("fill", count=missing - 1)  # and one more to warm up
        pids = [worker.pid for worker in workers]
        samples = [Sample(time.perf_counter(), 0, cpu(pids))]
        for worker in workers:
            worker.signal(signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while samples[-1].done < count:
            _must_go_on(workers, deadline)
            await asyncio.sleep(_SAMPLE)
            left = await stage.left("noop")
            samples.append(Sample(time.perf_counter(), resting + count - left, cpu(pids)))
    return slope(samples, count)


async def _drained_far(stage: Stage, processes: int, count: int, resting: int) -> Drained:
    """Start workers on a backlog and watch them by what their handlers note, as those of the peers are watched."""
    if (missing := resting + count - await stage.left("noop")) > 0:
        await stage.send("fill", count=missing - 1)  # and one more to warm up
    stage.tally.clear()
    async with stage.workers(processes, "noop", until_served=False) as workers:
        return await watched(stage.tally, workers, count, processes)


async def watched(tally: Tally, workers: Sequence[Program], count: int, processes: int) -> Drained:
    """Watch another system's workers, which were started on a backlog, by what their handlers note.

    How long they take to start is not counted: the watch begins when all processes take part.
    """
    samples = [Sample(time.perf_counter(), 0, 0.0)]
    pids: list[int] = []
    joined, deadline = False, time.monotonic() + PATIENCE
    while samples[-1].done < count:
        await asyncio.sleep(_SAMPLE)
        _must_go_on(workers, deadline)
        done = tally.counts()
        if not joined and (len(done) == processes or (done and not pids)):
            pids = [process.pid for worker in workers for process in tree(worker.pid)]
        if not joined and len(done) == processes:
            joined = True
            samples = samples[:1] if sum(done) == count else []  # so few that one look saw them all
        samples.append(Sample(time.perf_counter(), sum(done), cpu(pids)))
    if samples[0].done > count // 2:
        print(f"of {count:,} messages {samples[0].done:,} were handled before all {processes} processes took part", file=sys.stderr)
    return slope(samples, count)


def _must_go_on(workers: Sequence[Program], deadline: float) -> None:
    for worker in workers:
        if worker.process.returncode is not None:
            raise RuntimeError(f"a worker ended: {worker.log.read_text()[-2000:]}")
    if time.monotonic() > deadline:
        raise TimeoutError(f"a backlog was not drained within {PATIENCE:g} s: {workers[0].log.read_text()[-2000:]}")


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Drain with one and with two worker processes; the 160,000 in a minute of row W2 are 2,667 a second."""
    async with session.stage() as stage:
        one = await drained(stage, 1, scale.drained)
        yield Figure(DRAIN_ONE, one.rate)
        yield Figure(WORKER_CPU, one.cpu)
    async with session.stage() as stage:
        yield Figure(DRAIN_TWO, (await drained(stage, 2, scale.drained)).rate)


async def measure_together(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Send by hundreds and drain at once, from the first send to the last message done."""
    async with session.stage() as stage, stage.workers(1, "noop"):
        sent = await stage.send("hundreds", count=scale.drained)
        await stage.until_left("noop", 0)
        yield Figure(TOGETHER, scale.drained / (time.time() - sent["started"]))
