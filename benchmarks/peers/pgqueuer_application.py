"""PgQueuer over PostgreSQL with asyncpg, in a database of its own; run as a program, it is a worker that claims by 100.

Its own command does not start (1.6.0 with the typer of today), so the same manager is run from Python. It sends from an event loop only.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from typing import Any

import asyncpg
from pgqueuer import AsyncpgDriver, PgQueuer, Queries

from benchmarks import tally
from benchmarks.payload import FIELDS

_URL = os.environ["PGDSN"]
_NOOP = json.dumps({"fields": FIELDS}).encode()
_runner: list[tuple[asyncio.Runner, Any]] = []


async def _open() -> Any:
    connection = await asyncpg.connect(_URL)
    await connection.execute("select pg_advisory_lock(1)")
    queries = Queries(AsyncpgDriver(connection))
    if await connection.fetchval("select to_regclass('pgqueuer')") is None:
        await queries.install()
    await connection.execute("select pg_advisory_unlock(1)")
    return queries


def _run(work: Any) -> Any:
    """Run what is made of the queries in the event loop of this process, in which they were opened."""
    if not _runner:
        runner = asyncio.Runner()
        _runner.append((runner, runner.run(_open())))
    runner, queries = _runner[0]
    made: Coroutine[Any, Any, Any] = work(queries)
    return runner.run(made)


def send() -> None:
    """Send what is drained."""
    _run(lambda queries: queries.enqueue("noop", _NOOP))


def send_stamped(at: float) -> None:
    """Send what tells how long it took."""
    _run(lambda queries: queries.enqueue("stamp", json.dumps({"fields": FIELDS, "at": at}).encode()))


async def _ask(sentence: str) -> Any:
    connection = await asyncpg.connect(_URL)
    try:
        return await connection.fetchval(sentence)
    finally:
        await connection.close()


def waiting() -> int:
    """Count what nobody took yet."""
    return asyncio.run(_ask("select count(*) from pgqueuer where status = 'queued'"))


def forget() -> None:
    """Delete what nobody took."""
    asyncio.run(_ask("truncate pgqueuer, pgqueuer_log"))


def close() -> None:
    """Leave nothing half sent."""
    for runner, _ in _runner:
        runner.close()


async def _work() -> None:
    manager = PgQueuer(AsyncpgDriver(await asyncpg.connect(_URL)))

    @manager.entrypoint("noop")
    async def noop(job: Any) -> None:  # pyright: ignore[reportUnusedFunction] - the manager calls it
        json.loads(job.payload)
        tally.note()

    @manager.entrypoint("stamp")
    async def stamp(job: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        tally.since(json.loads(job.payload)["at"])

    await manager.run(batch_size=100)


if __name__ == "__main__":
    asyncio.run(_work())
