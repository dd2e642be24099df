"""Connections to a PostgreSQL that stands still: nobody waits longer than the deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from chappe.engines.rabbitmq.store.database import Connection
from chappe.engines.rabbitmq.store.store import PostgresStore
from chappe.errors import BrokerUnavailable, Unconfirmed
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from ....servers.postgres import PostgresNode

pytestmark = pytest.mark.proof

DEADLINE = 1.0
LONGEST = 6.0  # for the deadline, on a busy machine; psycopg alone waits for ten seconds more


@pytest.fixture
async def store(postgres_node: PostgresNode) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_node.url, deadline=DEADLINE)
    await store.kept.declare(Topology(queues=(bind("frozen"),)))
    yield store
    await store.close()


def message(name: str, **options: str | bool) -> Publication:
    return Publication(Envelope(name, "t", b"{}"), "frozen", options=Options(**options))  # pyright: ignore[reportArgumentType]


WORKS: dict[str, Callable[[PostgresStore], Awaitable[object]]] = {
    "one statement that stores": lambda store: store.kept.publish([message("one", key="k", merges=True)]),
    "a transaction that stores": lambda store: store.kept.publish([message("two", tracked=True), message("three", tracked=True)]),
    "a question": lambda store: store.kept.counts(("frozen",)),
}


@pytest.mark.parametrize("work", WORKS)
async def test_nothing_waits_longer_than_its_deadline_and_all_goes_on_afterwards(
    store: PostgresStore, postgres_node: PostgresNode, work: str
) -> None:
    await asyncio.gather(*(store.kept.counts(("frozen",)) for _ in range(4)))
    with postgres_node.frozen():
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises((BrokerUnavailable, Unconfirmed)):
                await WORKS[work](store)
            assert time.monotonic() - began < LONGEST
    for attempt in range(20):  # a connection that it ended meanwhile may be found dead only when it is used
        with contextlib.suppress(BrokerUnavailable):
            await store.kept.counts(("frozen",))
            break
        assert attempt < 19


async def test_who_comes_while_it_stands_still_does_not_wait_longer_either(store: PostgresStore, postgres_node: PostgresNode) -> None:
    newcomer = PostgresStore(postgres_node.url, deadline=DEADLINE)
    try:
        with postgres_node.frozen():
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await newcomer.kept.counts(("frozen",))
            assert time.monotonic() - began < LONGEST
    finally:
        await newcomer.close()


async def test_who_enters_as_it_begins_to_stand_still_does_not_wait_longer_either(
    store: PostgresStore, postgres_node: PostgresNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = store.database.connect
    with contextlib.ExitStack() as lasting:

        async def connected() -> Connection:
            connection = await connect()
            lasting.enter_context(postgres_node.frozen())
            return connection

        monkeypatch.setattr(store.database, "connect", connected)
        await store.kept.counts(("frozen",))
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await store.kept.session()
        assert time.monotonic() - began < LONGEST
