"""A session that was taken for dead begins another, and what it claimed before it heard that is taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from chappe.engines.contract.broker import Ack, Depth
from chappe.engines.postgres import tending
from chappe.engines.postgres.broker import PostgresBroker
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind

from ...servers import shared
from ...waiting import auntil


@pytest.fixture
def url(shared_servers: tuple[Path, int]) -> str:
    return shared.database(*shared_servers).url


@pytest.fixture
async def broker(url: str) -> AsyncIterator[PostgresBroker]:
    made = PostgresBroker(url, deadline=60.0)
    await made.declare(Topology(queues=(bind("q"),)))
    await made.publish([Publication(Envelope("m", "t", b"{}"), "q")])
    yield made
    await made.close()


async def forgotten(url: str) -> None:
    """Have all sessions be taken for dead, as others do who see that their locks are gone."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("delete from chappe.session")


async def test_what_a_session_claimed_after_it_was_taken_for_dead_is_taken_back(
    url: str, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "_SWEEP", 0.0)
    dead = PostgresBroker(url, deadline=60.0)
    async with dead.consume(["q"], prefetch=10) as consumer:
        await forgotten(url)
        assert len(await consumer.receive(1, 30.0)) == 1

        async def is_ready() -> bool:
            return await broker.depth("q") == Depth(ready=1)

        await auntil(is_ready, "the message to be taken back from a session that nobody knows")
    await dead.close()


async def test_a_session_that_was_taken_for_dead_begins_another_and_keeps_what_it_holds(url: str) -> None:
    broker = PostgresBroker(url, deadline=4.0)
    await broker.declare(Topology(queues=(bind("r"),)))
    await broker.publish([Publication(Envelope("m", "t", b"{}"), "r")])
    async with broker.consume(["r"], prefetch=10) as consumer:
        (delivery,) = await consumer.receive(1, 30.0)
        before = await broker.presence.number()
        await forgotten(url)

        async def is_another() -> bool:
            return await broker.presence.number() != before

        await auntil(is_another, "the session to begin again")
        assert consumer.holds(delivery.tag)
        assert await consumer.settle([Ack(delivery.tag)]) == []
    await broker.close()


async def test_a_connection_that_brings_nothing_any_more_is_replaced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = PostgresBroker(url, deadline=4.0)
    before = await broker.presence.number()
    assert broker.presence._connection is not None
    await broker.presence._connection.execute(f"unlisten chappe_{before}")

    async def is_another() -> bool:
        return await broker.presence.number() != before

    await auntil(is_another, "the session to begin again over another connection")
    await broker.close()
