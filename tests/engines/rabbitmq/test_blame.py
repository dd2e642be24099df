"""Messages of RabbitMQ with which a worker died: they run alone from then on, and their neighbours are not blamed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from chappe.engines.contract.broker import Ack, Death, Depth, Retry
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore
from chappe.engines.rabbitmq.broker import RabbitBroker
from chappe.engines.rabbitmq.names import RELAY
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind
from tests.contract.distributed import cut
from tests.servers.shared import Database, Vhost

WAIT = 60.0


def connected(rabbit: Vhost, postgres: Database) -> tuple[RabbitBroker, PostgresStore]:
    kept = PostgresBroker(postgres.url, deadline=WAIT, relay=RELAY)
    broker = RabbitBroker(rabbit.url, kept, deadline=WAIT, settling=0.0)
    return broker, PostgresStore(kept, broker)


async def dies_with(rabbit: Vhost, postgres: Database, queue: str, name: str) -> Death:
    """Have a worker die that runs one message, and maybe holds others."""
    broker, _ = connected(rabbit, postgres)
    table = broker._kept.presence.info["table"] = uuid4().hex
    async with broker.consume([queue], prefetch=2) as consumer:
        while name not in (held := {d.envelope.id: d.tag for d in await consumer.receive(2, WAIT)}):
            await consumer.settle([Retry(tag, 0.0, counted=False) for tag in held.values()])
        cut(broker)
        consumer._closed = consumer.pushing._closed = consumer._kept._closed = True
        await broker._kept.close()
    await broker.close()
    return Death(table, (held[name],))


async def done(broker: RabbitBroker, queue: str, count: int) -> list[tuple[str, int]]:
    """Return what comes, each with its attempt; what runs alone comes by itself."""
    seen: list[tuple[str, int]] = []
    async with broker.consume([queue], prefetch=10) as consumer:
        while len(seen) < count:
            deliveries = await consumer.receive(10, WAIT)
            assert len(deliveries) == 1 or "poison" not in [d.envelope.id for d in deliveries]
            seen += [(delivery.envelope.id, delivery.attempt) for delivery in deliveries]
            await consumer.settle([Ack(delivery.tag) for delivery in deliveries])
    return sorted(seen)


@pytest.fixture
async def station(rabbit: Vhost, postgres: Database) -> AsyncIterator[tuple[RabbitBroker, PostgresStore, str]]:
    """A broker and its store, with a queue in which a message that kills waits before three that do not."""
    queue = f"q-{uuid4().hex}"
    broker, store = connected(rabbit, postgres)
    await broker.declare(Topology(queues=(bind(queue),)))
    await broker.publish([Publication(Envelope(name, "t", b"{}"), queue) for name in ("poison", "a", "b", "c")])
    yield broker, store, queue
    await broker.close()


async def test_what_a_worker_died_with_runs_alone_and_its_neighbours_lose_no_attempt(
    rabbit: Vhost, postgres: Database, station: tuple[RabbitBroker, PostgresStore, str]
) -> None:
    broker, _, queue = station
    await broker.blame(await dies_with(rabbit, postgres, queue, "poison"))
    assert await done(broker, queue, 4) == [("a", 1), ("b", 1), ("c", 1), ("poison", 1)]
    assert await broker.depth(queue) == Depth()


async def test_a_death_that_is_told_when_the_message_was_taken_over_already_counts(
    rabbit: Vhost, postgres: Database, station: tuple[RabbitBroker, PostgresStore, str]
) -> None:
    broker, store, queue = station
    first = await dies_with(rabbit, postgres, queue, "poison")
    second = await dies_with(rabbit, postgres, queue, "poison")
    await broker.blame(first)
    await broker.blame(second)
    await broker.blame(await dies_with(rabbit, postgres, queue, "poison"))
    assert await done(broker, queue, 3) == [("a", 1), ("b", 1), ("c", 1)]
    (letter,) = await store.letters(queue)
    assert (letter.envelope.id, letter.reason, letter.deaths) == ("poison", "worker_lost", 3)


async def test_what_kills_three_workers_is_a_dead_letter(
    rabbit: Vhost, postgres: Database, station: tuple[RabbitBroker, PostgresStore, str]
) -> None:
    broker, store, queue = station
    for _ in range(3):
        await broker.blame(await dies_with(rabbit, postgres, queue, "poison"))
    assert await done(broker, queue, 3) == [("a", 1), ("b", 1), ("c", 1)]
    (letter,) = await store.letters(queue)
    assert (letter.envelope.id, letter.reason, letter.deaths) == ("poison", "worker_lost", 3)
