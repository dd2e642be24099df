"""Supervision: how soon a killed process is replaced, what many cost, and what is left of a killed supervisor (rows W4, W8, R11, D16)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psutil

from benchmarks.meters import pss, tree
from benchmarks.payload import stamped
from benchmarks.scale import Scale
from benchmarks.stage import LOOK, ROOT, Program, Session, Stage, until
from benchmarks.works import (
    SUPERVISED_CRASHING,
    SUPERVISED_MANY,
    SUPERVISED_ORPHANS,
    SUPERVISED_PSS,
    SUPERVISED_PSS_LATER,
    SUPERVISED_REPLACED,
    SUPERVISED_TAKEOVER,
    Figure,
)
from chappe.bus.draft import new_id
from chappe.messages.envelope import Envelope, Publication

_MINUTES = 300.0
_STAMPS = 50


@asynccontextmanager
async def _supervised(session: Session, pools: str, **environment: str) -> AsyncGenerator[tuple[Stage, Program]]:
    """Run `chappe run` with these pools until all are ready."""
    async with session.stage(engine=False) as stage:
        stage.environment |= environment
        (stage.path / "chappe.toml").write_text(pools)
        yield stage, await _run(stage)


async def _run(stage: Stage) -> Program:
    supervisor = await stage.chappe("run", "--no-gateway", "--no-scheduler")
    await until(lambda: " ready" in supervisor.log.read_text(), "chappe run to be ready", _MINUTES)
    return supervisor


def _workers(supervisor: Program) -> list[int]:
    return [one.pid for one in tree(supervisor.pid) if " ".join(one.cmdline()).startswith("chappe worker")]


async def _stamp(stage: Stage, at: float) -> None:
    await stage.broker.publish([Publication(Envelope(new_id(), "stamp", json.dumps(stamped(at)).encode(), timestamp=at), "stamp")])


async def _median(stage: Stage, count: int, seconds: float) -> float:
    """Return the median of the seconds from sending to the start of a handler, of messages sent throughout some seconds."""
    before = len(stage.tally.values())
    for number in range(count):
        await _stamp(stage, time.time())
        await until(lambda: len(stage.tally.values()) > before + number, "a message to start")  # noqa: B023
        await asyncio.sleep(seconds / count)
    return statistics.median(stage.tally.values()[before:])


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Each row with a supervisor of its own."""
    pool = '[pools.stamp]\nqueues = ["stamp"]\nprocesses = {}\nconcurrency = 1\n'
    async with _supervised(session, pool.format(1)) as (stage, supervisor):
        for number in range(scale.kills):
            (worker,) = _workers(supervisor)
            at = time.time()
            os.kill(worker, signal.SIGKILL)
            await _stamp(stage, at)
            await until(lambda: len(stage.tally.values()) > number, "the replacement to take work")  # noqa: B023
            while (await stage.depth("stamp")).running:  # what a killed worker has not settled is run by a process of its own
                await asyncio.sleep(LOOK)
        yield Figure(SUPERVISED_REPLACED, 1e3 * statistics.median(stage.tally.values()))
    (forked, forked_later), (alone, alone_later) = [await _memory(session, scale, fork=fork) for fork in ("true", "false")]
    yield Figure(SUPERVISED_PSS, forked / alone)
    yield Figure(SUPERVISED_PSS_LATER, forked_later / alone_later)
    started = time.monotonic()
    async with _supervised(session, pool.format(scale.many)) as (stage, supervisor):
        yield Figure(SUPERVISED_MANY, time.monotonic() - started)
        family = tree(supervisor.pid)
        supervisor.signal(signal.SIGKILL)
        killed = time.monotonic()
        await until(lambda: all(_is_gone(process) for process in family), "nobody to outlive the supervisor")
        yield Figure(SUPERVISED_ORPHANS, time.monotonic() - killed)
    async with _supervised(session, pool.format(1)) as (stage, supervisor):
        supervisor.signal(signal.SIGKILL)
        killed = time.monotonic()
        await _run(stage)
        yield Figure(SUPERVISED_TAKEOVER, time.monotonic() - killed)
    async with _supervised(session, pool.format(1)) as (stage, _):
        alone = await _median(stage, _STAMPS, scale.idling)
    crashing = f'[pools.crash]\nqueues = ["noop"]\nprocesses = {scale.crashing}\nmemory_limit = 1\n'
    async with _supervised(session, pool.format(1) + crashing) as (stage, _):
        await asyncio.sleep(scale.settling)
        yield Figure(SUPERVISED_CRASHING, await _median(stage, _STAMPS, scale.idling) / alone)


async def _memory(session: Session, scale: Scale, *, fork: str) -> tuple[float, float]:
    """Return the MB of workers of an application as people have them, before their first job and behind many."""
    pool = f'fork = {fork}\n[pools.tidy]\nqueues = ["tidy"]\nprocesses = {scale.supervised}\nconcurrency = 1\n'
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "src", "examples"))
    async with _supervised(session, pool, CHAPPE_APP="read_later.app:app", PYTHONPATH=paths) as (stage, supervisor):
        fresh = pss(_workers(supervisor))
        for _ in range(scale.jobs // 100):
            jobs = [Publication(Envelope(new_id(), "end.lost.articles", b"{}", timestamp=time.time()), "tidy") for _ in range(100)]
            await stage.broker.publish(jobs)
        while (depth := await stage.depth("tidy")).ready or depth.running:
            await asyncio.sleep(LOOK)
        return fresh, pss(_workers(supervisor))


def _is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
