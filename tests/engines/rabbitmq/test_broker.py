"""A broker beside its store, where RabbitMQ refuses: queues that are full, and what AMQP cannot carry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from pika import BasicProperties, spec

from chappe.engines.contract.broker import Ack, Depth
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.rabbitmq.broker import RabbitBroker
from chappe.engines.rabbitmq.kept import is_stray
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import RELAY
from chappe.errors import BrokerUnavailable, NotFound, Rejected, Unconfirmed
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Binding, Queue, Topology, bind
from tests.servers.shared import Database, Vhost
from tests.waiting import auntil

from .publishing import publish

TOO_LONG = "x" * 256


@pytest.fixture
async def broker(rabbit: Vhost, postgres: Database) -> AsyncIterator[RabbitBroker]:
    """A broker over both servers."""
    made = RabbitBroker(rabbit.url, PostgresBroker(postgres.url, deadline=60.0, relay=RELAY), deadline=60.0, settling=0.0)
    yield made
    await made.close()


def queue(**arguments: Any) -> Queue:
    """A queue of a new name."""
    return bind(f"broker-{uuid4().hex}", arguments=arguments)


def to(queue: Queue, **fields: Any) -> Publication:
    return Publication(Envelope(**{"id": uuid4().hex, "type": "t", "body": b"{}"} | fields), queue.name)


async def test_what_a_handler_publishes_beside_a_message_for_a_full_queue_is_published_once(broker: RabbitBroker) -> None:
    own, full, open_ = queue(), queue(**{"x-max-length": 1}), queue()
    await broker.declare(Topology(queues=(own, full, open_)))
    with pytest.raises(Unconfirmed):
        for _ in range(10):  # RabbitMQ lets a few more in than it was told
            await broker.publish([to(full)])
    await broker.publish([to(own)])
    async with broker.consume([own.name], prefetch=1) as consumer:
        (delivery,) = await consumer.receive(1, 60.0)
        ack = Ack(delivery.tag, (to(open_), to(full), to(open_)))
        for _ in range(3):
            with pytest.raises(Unconfirmed):
                await consumer.settle([ack])
        assert (await broker.depth(open_.name)).ready == 2
        assert (await broker.depth(own.name)).running == 1
        await broker.purge(full.name)
        assert await consumer.settle([ack]) == []
    assert [(await broker.depth(q.name)).ready for q in (own, full, open_)] == [0, 1, 2]


@pytest.mark.parametrize("options", [None, Options(key="k"), Options(tracked=True)])
async def test_what_amqp_cannot_carry_is_refused_before_anything_is_stored(broker: RabbitBroker, options: Options | None) -> None:
    """It may have to go through RabbitMQ: what is kept of a command does not, what is kept of an event does."""
    own, exchange = queue(), Exchange(f"e-{uuid4().hex}")
    await broker.declare(Topology((exchange,), (Queue(own.name, (Binding(exchange.name, "#"),)),)))
    for wrong in ({"id": TOO_LONG}, {"type": TOO_LONG}, {"headers": {TOO_LONG: "x"}}, {"correlation_id": TOO_LONG}):
        with pytest.raises(Rejected, match="AMQP"):
            await broker.publish([Publication(to(own, **wrong).envelope, "k", exchange.name, options=options)])
    assert (await broker.depth(own.name)).ready == 0


async def test_what_amqp_cannot_carry_is_refused_where_a_handler_publishes_it(broker: RabbitBroker) -> None:
    own = queue()
    await broker.declare(Topology(queues=(own,)))
    await broker.publish([to(own)])
    async with broker.consume([own.name], prefetch=2) as consumer:
        (delivery,) = await consumer.receive(1, 60.0)
        (refusal,) = await consumer.settle([Ack(delivery.tag, (to(own, id=TOO_LONG),))])
        assert (refusal.delivery, refusal.why) == (delivery.tag, "unroutable")
        assert "AMQP" in refusal.text
        assert await consumer.settle([Ack(delivery.tag)]) == []
    assert await broker.depth(own.name) == Depth()


async def test_a_plain_message_that_was_only_given_back_stays_where_it_is(broker: RabbitBroker) -> None:
    own = queue()
    await broker.declare(Topology(queues=(own,)))
    await broker.publish([to(own)])
    for _ in range(2):
        async with broker.consume([own.name], prefetch=1) as consumer:
            (delivery,) = await consumer.receive(1, 60.0)
            assert (is_stray(delivery.tag), delivery.attempt) == (True, 1)
    assert await broker._kept.depth(own.name) == Depth()


@pytest.mark.proof  # RabbitMQ may stand still for many seconds
async def test_a_queue_that_somebody_deleted_by_hand_is_there_again_and_strands_nothing_that_is_kept(
    rabbit: Vhost, postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """What was plain is lost with it, and its name is told. RabbitMQ's channel may stand still for long: it is left after the deadline."""
    broker = RabbitBroker(rabbit.url, PostgresBroker(postgres.url, deadline=60.0, relay=RELAY), deadline=5.0, settling=0.0)
    own = queue()
    await broker.declare(Topology(queues=(own,)))
    link = await Link.open(broker.address, name="by hand", deadline=60.0)
    try:
        async with broker.consume([own.name], prefetch=1) as consumer:
            await broker.publish([to(own, id="held"), to(own, id="lost")])
            (held,) = await consumer.receive(1, 60.0)
            kept = [
                Publication(Envelope("keyed", "t", b"{}"), own.name, options=Options(key="k")),
                Publication(Envelope("delayed", "t", b"{}"), own.name, delay=0.01),
                Publication(Envelope("high", "t", b"{}"), own.name, priority=5),
            ]
            for publication in kept:
                await broker.publish([publication])
            await link.delete(own.name)
            await consumer.settle([Ack(held.tag)])
            seen: list[str] = []

            async def come() -> bool:
                with contextlib.suppress(BrokerUnavailable):
                    deliveries = await consumer.receive(1, 0.1)
                    await consumer.settle([Ack(delivery.tag) for delivery in deliveries])
                    seen.extend(delivery.envelope.id for delivery in deliveries)
                return {"keyed", "delayed", "high", "later"} <= set(seen)

            async def is_there() -> bool:
                await come()
                try:
                    await link.queue(own.name, passive=True)
                except NotFound:
                    return False
                return True

            await auntil(is_there, "the queue to be declared again")
            await broker.publish([to(own, id="later")])
            await auntil(come, "what is kept, and what is published afterwards")
            assert "lost" not in seen
        assert any(own.name in record.getMessage() and "lost" in record.getMessage() for record in caplog.records)
        assert await broker.depth(own.name) == Depth()
    finally:
        await link.close()
        await broker.close()


async def test_a_queue_whose_leader_is_silent_keeps_nobody_from_the_others_and_is_served_when_it_speaks(
    broker: RabbitBroker, rabbit: Vhost
) -> None:
    mute, *others = queues = [queue() for _ in range(4)]
    await broker.declare(Topology(queues=tuple(queues)))
    await broker.publish([to(q) for q in queues])
    await asyncio.to_thread(rabbit.control, "eval", f"sys:suspend('{rabbit.name}_{mute.name}').")
    loop = asyncio.get_running_loop()
    try:
        async with broker.consume([q.name for q in queues], prefetch=10) as consumer:
            began, seen = loop.time(), list[str]()
            while len(seen) < len(others) and loop.time() < began + 60.0:
                deliveries = await consumer.receive(10, 1.0)
                seen += [delivery.queue for delivery in deliveries]
                assert await consumer.settle([Ack(delivery.tag) for delivery in deliveries]) == []
            assert sorted(seen) == sorted(q.name for q in others)
            await asyncio.to_thread(rabbit.control, "eval", f"sys:resume('{rabbit.name}_{mute.name}').")
            while mute.name not in seen and loop.time() < began + 120.0:
                deliveries = await consumer.receive(10, 1.0)
                seen += [delivery.queue for delivery in deliveries]
                assert await consumer.settle([Ack(delivery.tag) for delivery in deliveries]) == []
            assert sorted(seen) == sorted(q.name for q in queues)
    finally:
        await asyncio.to_thread(rabbit.control, "eval", f"sys:resume('{rabbit.name}_{mute.name}').")


async def test_a_temporary_queue_hears_again_after_another_program_deleted_and_made_its_exchange(
    broker: RabbitBroker, rabbit: Vhost
) -> None:
    theirs = Exchange(f"theirs-{uuid4().hex}", "fanout", passive=True)
    link = await Link.open(broker.address, name="another program", deadline=60.0)
    try:
        await link.exchange(theirs.name, theirs.kind, durable=False)
        await broker.declare(Topology((theirs,)))
        async with broker.consume([], prefetch=9, temporary=[bind("listener", f"{theirs.name}:")]) as consumer:

            async def hears() -> bool:
                publish(link, theirs.name, "", b"{}", BasicProperties(message_id=uuid4().hex, type="t"))
                deliveries = await consumer.receive(9, 0.1)
                await consumer.settle([Ack(delivery.tag) for delivery in deliveries])
                return bool(deliveries)

            await auntil(hears, "it to hear")
            await link._declare("delete it", spec.Exchange.Delete(exchange=theirs.name))
            await link.exchange(theirs.name, theirs.kind, durable=False)
            await auntil(hears, "it to hear again")
    finally:
        await link.close()
