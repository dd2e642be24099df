"""How much was published to an exchange, and how much of it was delivered to queues, as the overview tells it (H8)."""

from __future__ import annotations

from typing import Any

import pytest

from chappe.engines.contract.broker import Ack
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Options, Publication
from chappe.messages.topology import Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import envelope, event, one, send, settle, to

LATER: dict[str, Any] = {"delay": 600.0}
WAYS: dict[str, dict[str, Any]] = {
    "plainly": {}, "later": LATER, "first": {"priority": 3}, "with a key": {"key": "a"}, "watched": {"tracked": True},
    "to be merged": {"key": "m", "merges": True},
}  # fmt: skip


@pytest.fixture(autouse=True)
async def counted(engine: EngineUnderTest, peer: Peer) -> None:
    if not engine.counts_exchanges:
        pytest.skip("RabbitMQ's management plugin counts, which these servers do not have: tests/engines/rabbitmq/test_management.py")
    queues = (bind("one", "single:k"), bind("first", "double:k"), bind("second", "double:k"), bind("kept.too", "kept:k"))
    await peer.broker.declare(Topology((Exchange("single"), Exchange("double"), Exchange("kept", archive=60.0)), queues))


def through(exchange: str, **options: Any) -> Publication:
    return to("k", exchange=exchange, **options)


async def passed(peer: Peer) -> dict[str, tuple[int, int]]:
    found = (await peer.store.overview()).passed
    return {name: (published, delivered) for name, (published, delivered) in found.items()}


@pytest.mark.parametrize("way", WAYS)
async def test_with_one_subscriber_as_many_are_delivered_as_published(peer: Peer, way: str) -> None:
    await send(peer, through("single", **WAYS[way]))
    assert await passed(peer) == {"single": (1, 1)}


@pytest.mark.parametrize("way", ["plainly", "later", "watched"])
@pytest.mark.parametrize("count", [1, 7])
async def test_with_two_subscribers_twice_as_many_are_delivered_as_published(peer: Peer, way: str, count: int) -> None:
    await send(peer, *[event("double", "k", f"e{n}", **WAYS[way]) for n in range(count)])
    assert await passed(peer) == {"double": (count, 2 * count)}
    await send(peer, event("single", "k"), event("double", "k"), to("one"))
    assert await passed(peer) == {"double": (count + 1, 2 * count + 2), "single": (1, 1)}


async def test_what_is_only_archived_is_published_and_delivered_to_nobody(peer: Peer) -> None:
    await send(peer, event("kept", "nobody"), event("kept", "k"))
    assert await passed(peer) == {"kept": (2, 1)}
    await send(peer, event("kept", "nobody", **LATER))
    assert await passed(peer) == {"kept": (3, 1)}


async def test_a_temporary_queue_is_a_subscriber(peer: Peer) -> None:
    async with peer.broker.consume([], prefetch=9, temporary=[bind("listener", "single:k")]):
        await send(peer, event("single", "k"))
        assert await passed(peer) == {"single": (1, 2)}


async def test_what_is_sent_with_an_ack_is_counted_with_it(peer: Peer) -> None:
    await send(peer, to("one", "a"), to("one", "b"))
    async with peer.broker.consume(["one"], prefetch=2) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, then=(event("double", "k"), event("single", "k", **LATER))))
        assert await passed(peer) == {"double": (1, 2), "single": (1, 1)}
        refused = await consumer.settle([Ack((await one(consumer)).tag, then=(event("double", "k"), event("single", "nobody")))])
        assert [refusal.why for refusal in refused] == ["unroutable"]
    assert await passed(peer) == {"double": (1, 2), "single": (1, 1)}


async def test_what_is_not_stored_or_is_merged_is_not_counted(peer: Peer) -> None:
    for _ in range(2):
        await peer.broker.publish([Publication(envelope("a"), "k", "single", options=Options(idempotency_key="once"))])
    assert await passed(peer) == {"single": (1, 1)}
    await send(peer, through("single", key="m", merges=True))
    (pending,) = await peer.broker.publish([through("single", key="m", merges=True)])
    await peer.broker.publish([through("single", key="m", merges=True, replaces=pending.version)])
    assert await passed(peer) == {"single": (2, 2)}


async def test_what_was_counted_stays_when_its_queue_is_deleted(peer: Peer) -> None:
    await send(peer, event("double", "k"))
    await peer.broker.purge("first", delete=True)
    assert await passed(peer) == {"double": (1, 2)}
