"""What scenarios say again and again: messages that are told apart by a name, and waiting for a condition."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import pytest

from chappe.engines.contract.broker import Ack, Consumer, Dead, Delivery, Depth, Retry, Settlement
from chappe.messages.envelope import TENANT, Envelope, Options, Publication, Receipt
from chappe.messages.topology import Topology, bind

from .engine import EngineUnderTest, Peer

PATIENCE: Final = 60.0

End = Callable[[int], Settlement]


def envelope(name: str, **fields: Any) -> Envelope:
    """Return an envelope whose body is its name and whose id is new."""
    values: dict[str, Any] = {"id": f"{name}-{uuid.uuid4().hex}", "type": "test.message", "body": name.encode(), **fields}
    return Envelope(**values)


def to(
    queue: str, name: str = "m", *, exchange: str = "", priority: int = 0, delay: float = 0.0, id: str | None = None, **options: Any
) -> Publication:
    """Return a publication of a message of this name; what is not named here is an option."""
    more: dict[str, Any] = {} if id is None else {"id": id}
    if "tenant" in options:
        more["headers"] = {TENANT: options["tenant"]}
    made = envelope(name, **more)
    return Publication(made, queue, exchange, priority, delay, Options(**options) if options else None)


def event(exchange: str, key: str, name: str = "e", **keywords: Any) -> Publication:
    """Return a publication to an exchange."""
    return to(key, name, exchange=exchange, **keywords)


async def declare(peer: Peer, *queues: str, fair: bool = False) -> None:
    """Declare queues without bindings."""
    await peer.broker.declare(Topology(queues=tuple(bind(name, fair=fair) for name in queues)))


async def send(peer: Peer, *publications: Publication) -> list[Receipt]:
    """Publish, and expect that everything is stored."""
    receipts = await peer.broker.publish(publications)
    assert [r.outcome for r in receipts] == ["stored"] * len(publications)
    return receipts


async def gather(consumer: Consumer, count: int, limit: int = 1000, seconds: float = PATIENCE) -> list[Delivery]:
    """Receive exactly so many deliveries, in as many answers as it takes."""
    got: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while len(got) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"only {names(got)} came, {count} were expected"
        got += await consumer.receive(min(limit, count - len(got)), min(left, 1.0))
    return got


async def one(consumer: Consumer) -> Delivery:
    """Receive one delivery."""
    (delivery,) = await gather(consumer, 1)
    return delivery


async def nothing(engine: EngineUnderTest, consumer: Consumer) -> None:
    """Expect that nothing can be received."""
    assert names(await consumer.receive(100, engine.quiet)) == []


def name(delivery: Delivery) -> str:
    """Return the name of a delivered message."""
    return delivery.envelope.body.decode()


def names(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the names of delivered messages."""
    return [name(d) for d in deliveries]


async def settle(consumer: Consumer, *settlements: Settlement) -> None:
    """Settle, and expect that nothing is refused."""
    assert await consumer.settle(settlements) == []


def done(tag: int) -> Settlement:
    """End a delivery as done."""
    return Ack(tag)


def dead(tag: int) -> Settlement:
    """End a delivery as dead."""
    return Dead(tag, "no")


def later(tag: int) -> Settlement:
    """Put a delivery off for an hour."""
    return Retry(tag, 3600.0)


async def ack(consumer: Consumer, *deliveries: Delivery) -> None:
    """Acknowledge, and expect that nothing is refused."""
    await settle(consumer, *[Ack(d.tag) for d in deliveries])


async def drain(engine: EngineUnderTest, peer: Peer, *queues: str) -> list[str]:
    """Take and acknowledge what is ready, one by one, and give the names in order."""
    found: list[str] = []
    async with peer.broker.consume(queues, prefetch=1) as consumer:
        while True:
            wait = PATIENCE if sum([(await peer.broker.depth(q)).ready for q in queues]) else engine.quiet
            got = await consumer.receive(1, wait)
            if not got:
                return found
            found += names(got)
            await ack(consumer, *got)


async def eventually(look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    """Expect that a look shows what is wanted within the deadline."""
    deadline = time.monotonic() + PATIENCE
    while (seen := await look()) != wanted:
        assert time.monotonic() < deadline, f"{seen} did not become {wanted}"
        await asyncio.sleep(0.01)


async def depth_becomes(peer: Peer, queue: str, **counts: int) -> None:
    """Expect that a queue has these counts within the deadline, and zero of the others."""
    await eventually(lambda: peer.broker.depth(queue), Depth(**counts))


def needs_moving_time(engine: EngineUnderTest) -> None:
    """Skip where hours cannot pass in a moment."""
    if not engine.moves_time:
        pytest.skip("the time of this engine cannot be moved")
