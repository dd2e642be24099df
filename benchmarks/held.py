"""A drain beside a transaction that somebody else keeps open, the usual poison of queues in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

import psycopg

from benchmarks.drain import drained, watched
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.measure import place
from benchmarks.scale import Scale
from benchmarks.stage import Session
from benchmarks.works import DRAIN_HELD, Figure


@contextmanager
def held_open(url: str) -> Generator[None]:
    """Keep a transaction open that sees the database as it is now."""
    with psycopg.connect(url) as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select count(*) from pg_class")
        yield


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Drain without and beside it, each in a fresh database."""
    async with session.stage() as stage:
        free = (await drained(stage, 1, scale.held)).rate
    async with session.stage() as stage:
        with held_open(stage.environment["CHAPPE_BROKER"]):
            yield Figure(DRAIN_HELD, (await drained(stage, 1, scale.held)).rate / free)


async def measure_peer(peer: Peer, session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Have a peer do the same."""
    rates: list[float] = []
    for is_held in (False, True):
        async with place(session, peer) as there:
            url = there.environment["PGDSN"]
            count = scale.held_slowly
            with held_open(url) if is_held else psycopg.connect(url):
                await there.send_by(2, "one_by_one", count=count // 2 - 1)
                await there.must_wait(count)
                async with there.workers(peer.one) as workers:
                    rates.append((await watched(there.tally, workers, count, 1)).rate)
    yield Figure(DRAIN_HELD, rates[1] / rates[0])
