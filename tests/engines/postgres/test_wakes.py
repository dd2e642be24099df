"""One message wakes those whom it needs; the others who wait look a moment later. A mask that is the first of its key takes one journey."""

# Who is told what is looked at from inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest

from chappe.engines.postgres import consumer as module
from chappe.engines.postgres import journeys
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.database import Database
from chappe.messages.envelope import Envelope, Options, Publication


@pytest.mark.parametrize(("count", "told"), [(1, 2), (3, 4), (50, 6)])
async def test_as_many_of_those_who_wait_are_named_as_there_are_messages_and_one_more(
    url: str, broker: PostgresBroker, count: int, told: int
) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("truncate chappe.waiter")
        await connection.execute(
            "insert into chappe.waiter select id, 1000 + n from chappe.queue, generate_series(1, 6) n where name = 'q'"
        )
        await connection.execute("listen chappe_ready")
        await broker.publish([Publication(Envelope(f"m{n}", "t", b"{}"), "q") for n in range(count)])
        async for notice in connection.notifies(timeout=60.0, stop_after=1):
            _, *sessions = notice.payload.split()
            assert len(set(sessions)) == told


async def test_who_is_not_named_looks_too(broker: PostgresBroker, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 3600.0)  # nobody looks by himself
    monkeypatch.setattr(broker.presence, "is_named", lambda _: False)
    sender = PostgresBroker(url, deadline=60.0)
    async with AsyncExitStack() as stack:
        consumer = await stack.enter_async_context(broker.consume(["q"], prefetch=10))
        assert await consumer.receive(1, 0.0) == []
        await consumer._wait_to_be_told()
        receiving = consumer.receive(1, 60.0)
        task = asyncio.ensure_future(receiving)
        await sender.publish([Publication(Envelope("m", "t", b"{}"), "q")])
        assert [d.envelope.id for d in await task] == ["m"]
    await sender.close()


async def test_masks_that_find_none_to_be_merged_with_take_one_journey_each(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[Any]()
    once = Database.once

    async def counted(self: Database, statement: Any, *values: Any, **more: Any) -> Any:
        looks.extend([statement] if statement == journeys._LOOK else [])
        return await once(self, statement, *values, **more)

    monkeypatch.setattr(Database, "once", counted)
    for n in range(4):
        (receipt,) = await broker.publish([Publication(Envelope(f"m{n}", "t", b"{}"), "q", options=Options(key=str(n), merges=True))])
        assert receipt.outcome == "stored"
    assert len(looks) <= 1
