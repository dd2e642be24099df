"""Archived events once more, to one subscriber."""

from __future__ import annotations

import pytest

from chappe.archive.feeding import replay
from chappe.engines.contract.broker import Ack
from chappe.errors import NotFound
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import drain, event, gather, send, settle


@pytest.fixture(autouse=True)
async def topology(engine: EngineUnderTest, peer: Peer) -> None:
    exchanges = (Exchange("kept", archive=3600.0), Exchange("all", "fanout", archive=3600.0))
    await peer.broker.declare(Topology(exchanges, (bind("q", "kept:bid.*", "all:"), bind("r", "kept:bid.*"))))
    await send(peer, *[event("kept", "bid.x", str(n)) for n in range(4)], event("kept", "other", "no"), event("all", "x", "4"))
    for queue in ("q", "r"):
        await drain(engine, peer, queue)


async def test_h13_a_replay_reaches_one_subscriber_marked_as_such_and_nobody_else(engine: EngineUnderTest, peer: Peer) -> None:
    assert await replay(peer.broker, peer.store, "q", 2, run="a") == 3
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        deliveries = await gather(consumer, 3)
        assert [d.envelope.body for d in deliveries] == [b"2", b"3", b"4"]
        assert [d.envelope.headers["replayed"] for d in deliveries] == ["3", "4", "6"]
        await settle(consumer, *[Ack(d.tag) for d in deliveries])
    assert await drain(engine, peer, "r") == []
    assert (await peer.store.archived(0, 0)).end == 6, "what is replayed is not archived again"


async def test_h13_a_replay_that_is_said_again_makes_no_doubles(engine: EngineUnderTest, peer: Peer) -> None:
    for _ in range(2):
        await replay(peer.broker, peer.store, "q", 0, until=2, run="a")
    assert await drain(engine, peer, "q") == ["0", "1"]
    await replay(peer.broker, peer.store, "q", 0, until=2, run="b")
    assert await drain(engine, peer, "q") == ["0", "1"]


async def test_h13_a_replay_to_a_queue_that_is_not_there_is_refused(peer: Peer) -> None:
    with pytest.raises(NotFound, match="declared are: q, r"):
        await replay(peer.broker, peer.store, "nobody", 0, run="a")


async def test_h13_a_replay_to_a_queue_that_is_bound_to_nothing_is_refused(peer: Peer) -> None:
    await peer.broker.declare(Topology(queues=(bind("commands"),)))
    with pytest.raises(NotFound, match="bound to no exchange"):
        await replay(peer.broker, peer.store, "commands", 0, run="a")
