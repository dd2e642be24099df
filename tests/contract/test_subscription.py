"""A durable subscriber that begins in the past hears all of it once, and then what comes, without a hole or a repeat between them."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time

import pytest

from chappe.archive.feeding import Subscription
from chappe.archive.follow import Following
from chappe.engines.contract.archive import Page
from chappe.engines.contract.broker import Ack
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import event, gather, names, nothing, send, settle

BIDS = Exchange("bids", archive=3600.0)


@pytest.fixture(autouse=True)
async def topology(peer: Peer) -> None:
    await peer.broker.declare(Topology((BIDS, Exchange("others", archive=3600.0)), (bind("ledger"),)))


def subscription(peer: Peer, *, since: int = 0, queue: str = "ledger") -> Subscription:
    async def connection() -> Peer:
        return peer

    return Subscription(connection, queue, BIDS, "bid.*", since=since, now=time.time)


async def raised(peer: Peer, *numbers: int) -> None:
    await send(peer, *[event("bids", "bid.raised", str(n)) for n in numbers])


async def heard(engine: EngineUnderTest, peer: Peer, count: int) -> list[str]:
    """Take so many messages, in the order in which they come, and expect no other."""
    async with peer.broker.consume(["ledger"], prefetch=100) as consumer:
        found: list[str] = []
        while len(found) < count:
            deliveries = await gather(consumer, 1)
            found += names(deliveries)
            await settle(consumer, *[Ack(delivery.tag) for delivery in deliveries])
        await nothing(engine, consumer)
    return found


async def test_m4_the_past_comes_first_and_then_the_present_in_one_order(engine: EngineUnderTest, peer: Peer) -> None:
    await raised(peer, 0, 1)
    await send(peer, event("bids", "note.left", "other"), event("others", "bid.raised", "other"))
    feeding = asyncio.create_task(subscription(peer).run())
    publisher = await engine.connect()
    for n in range(2, 20, 2):
        await raised(publisher, n, n + 1)
    try:
        assert await heard(engine, peer, 20) == [str(n) for n in range(20)]
    finally:
        feeding.cancel()


async def test_m4_a_subscriber_goes_on_where_it_was_and_since_counts_for_its_first_start_only(engine: EngineUnderTest, peer: Peer) -> None:
    await raised(peer, 0, 1, 2)
    await subscription(peer, since=1).turn()
    await raised(peer, 3)
    while await subscription(peer, since=0).turn():
        pass
    assert await heard(engine, peer, 3) == ["1", "2", "3"]


async def test_m4_several_processes_that_feed_one_queue_put_each_event_there_once(engine: EngineUnderTest, peer: Peer) -> None:
    await raised(peer, *range(10))
    others = [subscription(await engine.connect()) for _ in range(3)]
    await asyncio.gather(*[one.turn() for one in others])
    await raised(peer, 10)
    for one in others:
        while await one.turn():
            pass
    assert sorted(await heard(engine, peer, 11), key=int) == [str(n) for n in range(11)]


async def test_m4_a_process_that_ends_before_it_notes_how_far_it_is_repeats_nothing(
    engine: EngineUnderTest, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await raised(peer, 0, 1)

    class PowerCut(Exception):
        pass

    async def cut(self: Following, page: Page, *, at_once: bool = False) -> None:
        raise PowerCut

    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(Following, "passed", cut)
        await subscription(peer).turn()
    await raised(peer, 2)
    while await subscription(peer).turn():
        pass
    assert await heard(engine, peer, 3) == ["0", "1", "2"]
