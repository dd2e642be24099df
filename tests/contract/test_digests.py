"""Commands that are handled together, by a worker on each engine."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from chappe import App, Command, Context, Retry
from chappe.bus.context import NO_PORTS
from chappe.bus.draft import Draft, new_id
from chappe.worker.running_table import RunningTable
from chappe.worker.worker import Worker
from tests.waiting import auntil

from .engine import Peer


class Post(Command, queue="posts", retry=Retry(2, delay=0.0, jitter=0.0)):
    number: int


class Posted(Command, queue="posted"):
    number: int


async def test_a_worker_with_one_slot_handles_ten_at_once_and_those_of_a_call_that_failed_one_by_one(peer: Peer, tmp_path: Path) -> None:
    app = App("posts")
    calls: list[list[int]] = []

    async def post(posts: list[Post], contexts: list[Context]) -> None:
        calls.append([post.number for post in posts])
        await asyncio.sleep(0)
        if 14 in calls[-1]:
            raise ValueError("14 cannot be posted")
        for post, context in zip(posts, contexts, strict=True):
            context.send(Posted(number=post.number))

    app.handles(Post, batch=10, within=600.0)(post)
    app.knows(Posted)
    await peer.broker.declare(app.registry.topology())
    await peer.broker.publish([app.bus.prepare(Post(number=n), Draft(new_id())) for n in range(20)])
    async with AsyncExitStack() as exits:
        consumer = await exits.enter_async_context(peer.broker.consume(["posts"], prefetch=2))
        table = RunningTable(tmp_path, 1 + app.registry.waiting_places)
        exits.callback(table.close)
        worker = Worker(app.bus, consumer, merging=app.merger, ports=NO_PORTS, concurrency=1, table=table)
        running = asyncio.create_task(worker.run())

        async def over() -> bool:
            return (await peer.broker.depth("posted")).ready == 19 and (await peer.broker.depth("posts")).dead == 1

        await auntil(over, "all to be posted but one")
        await worker.stop(5.0)
        await running
    assert sorted(calls[:2]) == [list(range(10)), list(range(10, 20))]
    assert all(len(call) == 1 for call in calls[2:])
    assert sorted(call[0] for call in calls[2:]) == list(range(10, 20))
