"""How many of a server's connections are taken."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from chappe import App, Command, Settings
from chappe.engines.contract.broker import Ack
from chappe.engines.postgres.broker import PostgresBroker
from chappe.messages.topology import Topology, bind
from tests.servers.postgres import PostgresNode
from tests.waiting import PATIENCE

_WORKERS, _SENDERS, _EACH = 40, 8, 50


class Step(Command, queue="steps"):
    number: int


@pytest.mark.proof
async def test_forty_workers_and_eight_senders_fit_into_a_hundred_connections(tmp_path: Path) -> None:
    """A worker takes two at most, a process that has sent and is idle one."""
    with PostgresNode(tmp_path / "server", "max_connections = 100") as node:
        workers = [PostgresBroker(node.url, role="worker", deadline=60.0) for _ in range(_WORKERS)]
        senders = [App(f"sender{n}") for n in range(_SENDERS)]
        await workers[0].declare(Topology(queues=(bind("steps"),)))

        async def taken() -> int:
            async with await psycopg.AsyncConnection.connect(node.url) as connection:
                rows = await connection.execute("select count(*) from pg_stat_activity where application_name = 'chappe'")
                return (await rows.fetchone() or (0,))[0]

        before = await taken()
        for n, sender in enumerate(senders):
            sender.handles(Step)(lambda command: None)
            sender.configure(Settings(broker=node.url, state_dir=str(tmp_path / f"sender{n}"), deadline=60.0))
            for number in range(_EACH):
                await asyncio.to_thread(sender.send, Step(number=number))
        assert await taken() - before <= _SENDERS, "one for each that has sent"
        done = 0
        async with AsyncExitStack() as stack, asyncio.timeout(4 * PATIENCE):
            consumers = [await stack.enter_async_context(worker.consume(["steps"], prefetch=4)) for worker in workers]
            while done < _SENDERS * _EACH:
                for consumer, lent in zip(consumers, await asyncio.gather(*(c.receive(4, 1.0) for c in consumers)), strict=True):
                    assert await consumer.settle([Ack(one.tag) for one in lent]) == []
                    done += len(lent)
            assert await taken() <= 2 * _WORKERS + _SENDERS
        for sender in senders:
            await asyncio.to_thread(sender.close)
        for worker in workers:
            await worker.close()
