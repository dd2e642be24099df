"""Measures the limit at Chappe's works, and the disk below both."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from benchmarks import works
from benchmarks.drain import watched
from benchmarks.meters import percentile
from benchmarks.scale import Scale
from benchmarks.sending import rate
from benchmarks.stage import Folder, Program, Session, all_at_once, until
from benchmarks.works import Figure

_WRITTEN = 8 << 10
_ROOM = 1 << 20


async def _program(folder: Folder, name: str, *arguments: str) -> Program:
    return await folder.start(sys.executable, "-m", f"benchmarks.peers.limit.{name}", *arguments)


@contextlib.asynccontextmanager
async def _engine(session: Session, count: int = 0) -> AsyncGenerator[Folder]:
    """Run an engine with so many messages in a fresh folder."""
    async with session.folder() as folder:
        engine = await _program(folder, "engine", str(count))
        await engine.line()
        yield folder


async def _workers(folder: Folder, count: int) -> list[Program]:
    """Start workers, and let all begin when all are ready."""
    workers = [await _program(folder, "worker") for _ in range(count)]
    for worker in workers:
        await worker.line()
    for worker in workers:
        worker.go()
    return workers


async def _send(folder: Folder, how: str, count: int) -> Any:
    return await all_at_once([await _program(folder, "sender", how, json.dumps({"count": count}))])


async def drain(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Drain twice as much as Chappe does: it takes so little time."""
    count = 2 * scale.drained
    async with _engine(session, count) as folder:
        found = await watched(folder.tally, await _workers(folder, 1), count, 1)
    yield Figure(works.DRAIN_ONE, found.rate)
    yield Figure(works.WORKER_CPU, found.cpu)
    async with _engine(session, count) as folder:
        found = await watched(folder.tally, await _workers(folder, 2), count, 2)
    yield Figure(works.DRAIN_TWO, found.rate)


async def send(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Send while nobody handles it."""
    async with _engine(session) as folder:
        for work, how, count in (
            (works.SEND, "one_by_one", scale.sent),
            (works.ASEND, "awaited_one_by_one", scale.sent),
            (works.EIGHT_TASKS, "tasks", 2 * scale.sent),
            (works.SEND_HUNDREDS, "hundreds", scale.sent_by_hundreds),
        ):
            yield Figure(work, rate(count, await _send(folder, how, count)))


async def latency(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """One every 10 ms to an idle worker."""
    for how, p50, p99 in (("paced", works.SEND_P50, works.SEND_P99), ("awaited_paced", works.ASEND_P50, works.ASEND_P99)):
        async with _engine(session) as folder:
            await _workers(folder, 1)
            await _send(folder, how, scale.stamped)
            await until(lambda: folder.tally.count() >= scale.stamped, "all messages to be handled")
            took = folder.tally.values()
        yield Figure(p50, 1e3 * percentile(took, 0.5))
        yield Figure(p99, 1e3 * percentile(took, 0.99))


@contextlib.asynccontextmanager
async def _queue(session: Session) -> AsyncGenerator[Folder]:
    """Return a folder whose programs speak to a fresh queue of RabbitMQ."""
    async with session.folder() as folder:
        folder.environment |= {"BENCH_QUEUE": f"bench{time.time_ns()}", "BENCH_AMQP": session.rabbit().url}
        yield folder


async def _over_amqp(folder: Folder, how: str, count: int) -> Any:
    return await all_at_once([await _program(folder, "amqp", how, json.dumps({"count": count}))])


async def send_far(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Send to RabbitMQ while nobody handles it."""
    async with _queue(session) as folder:
        for work, how, count in ((works.SEND, "one_by_one", scale.sent), (works.SEND_HUNDREDS, "hundreds", scale.sent_by_hundreds)):
            yield Figure(work, rate(count, await _over_amqp(folder, how, count)))


async def latency_far(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """One every 10 ms, by way of RabbitMQ, to an idle program."""
    async with _queue(session) as folder:
        consumer = await _program(folder, "amqp", "consume", "{}")
        await consumer.line()
        await _over_amqp(folder, "paced", scale.stamped)
        await until(lambda: folder.tally.count() >= scale.stamped, "all messages to be handled")
        took = folder.tally.values()
    yield Figure(works.SEND_P50, 1e3 * percentile(took, 0.5))
    yield Figure(works.SEND_P99, 1e3 * percentile(took, 0.99))


async def disk(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Sync as SQLite does for each commit of a log that has its size: two pages are overwritten, and no length changes."""
    async with session.folder() as folder:
        yield Figure(works.DISK_SYNC, 1e6 * _seconds_for_a_sync(folder.path / "log", scale.syncs))


def _seconds_for_a_sync(path: Path, count: int) -> float:
    with path.open("wb", buffering=0) as file:
        file.write(bytes(_ROOM))
        os.fsync(file.fileno())
        page = os.urandom(_WRITTEN)
        started = time.perf_counter()
        for number in range(count):
            os.pwrite(file.fileno(), page, number * _WRITTEN % _ROOM)
            os.fdatasync(file.fileno())
        return (time.perf_counter() - started) / count
