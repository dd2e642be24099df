"""A broker beside its store, where RabbitMQ refuses: queues that are full, and what AMQP cannot carry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from pika import BasicProperties

from chappe.engines.contract.broker import Ack, Depth
from chappe.engines.rabbitmq.broker import RabbitBroker
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.store.store import PostgresStore
from chappe.errors import Rejected, Unconfirmed
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Queue, Topology, bind
from tests.servers.shared import Database, Vhost
from tests.waiting import auntil

TOO_LONG = "x" * 256


@pytest.fixture
async def broker(rabbit: Vhost, postgres: Database) -> AsyncIterator[RabbitBroker]:
    """A broker over both servers."""
    store = PostgresStore(postgres.url, deadline=60.0)
    made = RabbitBroker(rabbit.url, store.kept, deadline=60.0, settling=0.0)
    store.join(made)
    yield made
    await made.close()
    await store.close()


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
    own = queue()
    await broker.declare(Topology(queues=(own,)))
    for wrong in ({"id": TOO_LONG}, {"type": TOO_LONG}, {"headers": {TOO_LONG: "x"}}, {"correlation_id": TOO_LONG}):
        with pytest.raises(Rejected, match="AMQP"):
            await broker.publish([Publication(to(own, **wrong).envelope, own.name, options=options)])
    assert (await broker.depth(own.name)).ready == 0


async def test_what_amqp_cannot_carry_is_refused_where_a_handler_publishes_it(broker: RabbitBroker) -> None:
    own = queue()
    await broker.declare(Topology(queues=(own,)))
    await broker.publish([to(own)])
    await broker.publish([Publication(Envelope(uuid4().hex, "t", b"{}"), own.name, options=Options(tracked=True))])
    async with broker.consume([own.name], prefetch=2) as consumer:
        for _ in range(2):
            (delivery,) = await consumer.receive(1, 60.0)
            for delay in (0.0, 60.0):
                wrong = Publication(to(own, id=TOO_LONG).envelope, own.name, delay=delay)
                (refusal,) = await consumer.settle([Ack(delivery.tag, (wrong,))])
                assert (refusal.delivery, refusal.why) == (delivery.tag, "unroutable")
                assert "AMQP" in refusal.text
            assert await consumer.settle([Ack(delivery.tag)]) == []
    assert await broker.depth(own.name) == Depth()


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
                link.publish(theirs.name, "", b"{}", BasicProperties(message_id=uuid4().hex, type="t"), mandatory=False)
                deliveries = await consumer.receive(9, 0.1)
                await consumer.settle([Ack(delivery.tag) for delivery in deliveries])
                return bool(deliveries)

            await auntil(hears, "it to hear")
            await link._declare("delete it", lambda channel, answer: channel.exchange_delete(theirs.name, callback=answer))
            await link.exchange(theirs.name, theirs.kind, durable=False)
            await auntil(hears, "it to hear again")
    finally:
        await link.close()
