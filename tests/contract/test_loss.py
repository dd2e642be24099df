"""What happens to deliveries when their consumer is closed or lost."""

from __future__ import annotations

import asyncio

import pytest

from chappe.engines.contract.broker import Ack, Dead, Depth, Retry
from chappe.errors import BrokerError, BrokerUnavailable, Unconfirmed

from .engine import EngineUnderTest, Peer
from .scenes import PATIENCE, ack, declare, depth_becomes, drain, gather, name, names, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


@pytest.mark.disconnects
async def test_what_a_vanished_peer_held_is_ready_again_at_its_old_place(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(6)])
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=3) as consumer:
        await gather(consumer, 3)
        await lost.vanish()
        await depth_becomes(peer, "q", ready=6)
    async with peer.broker.consume(["q"], prefetch=6) as consumer:
        assert names(await gather(consumer, 6)) == [str(n) for n in range(6)]


@pytest.mark.disconnects
async def test_what_was_given_to_others_meanwhile_stays_with_them(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(6)])
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=2) as consumer, peer.broker.consume(["q"], prefetch=9) as other:
        await gather(consumer, 2)
        theirs = await gather(other, 2)
        await lost.vanish()
        await depth_becomes(peer, "q", ready=4, running=2)
        assert names(theirs + await gather(other, 4)) == ["2", "3", "0", "1", "4", "5"]


@pytest.mark.disconnects
async def test_a_vanished_peers_message_goes_at_once_to_one_who_waits(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=1) as consumer, peer.broker.consume(["q"], prefetch=1) as other:
        await one(consumer)
        waiting = asyncio.create_task(other.receive(1, 60.0))
        await peer.broker.depth("q")
        await lost.vanish()
        assert names(await asyncio.wait_for(waiting, PATIENCE)) == ["a"]


@pytest.mark.disconnects
async def test_what_was_settled_before_vanishing_stays_settled(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(4)])
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=4) as consumer:
        a, b, c, _ = await gather(consumer, 4)
        await settle(consumer, Ack(a.tag), Dead(b.tag, "no"), Retry(c.tag, 3600.0))
        await lost.vanish()
        await depth_becomes(peer, "q", ready=1, dead=1, delayed=1)
    assert await drain(engine, peer, "q") == ["3"]


async def test_a_politely_closed_consumer_gives_back_at_the_old_place_without_counting(peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(4)])
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        await gather(consumer, 2)
    await depth_becomes(peer, "q", ready=4)
    async with peer.broker.consume(["q"], prefetch=4) as consumer:
        assert [(name(d), d.attempt) for d in await gather(consumer, 4)] == [("0", 1), ("1", 1), ("2", 1), ("3", 1)]


async def test_a_politely_closed_peer_gives_back_without_counting(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    polite = await engine.connect()
    async with polite.broker.consume(["q"], prefetch=1) as consumer:
        await one(consumer)
        await polite.close()
        await depth_becomes(peer, "q", ready=1)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert (await one(consumer)).attempt == 1


@pytest.mark.disconnects
async def test_giving_back_keeps_the_attempts_and_the_note_of_before(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=1) as consumer:
        for n in range(2):
            await settle(consumer, Retry((await one(consumer)).tag, note=f"note {n}"))
        await one(consumer)
        await lost.vanish()
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        assert delivery.attempt >= 3
        assert delivery.note == "note 1"


async def test_giving_back_keeps_the_priority(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "low"), to("q", "high", priority=5), to("q", "middle", priority=2))
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        await gather(consumer, 3)
    assert await drain(engine, peer, "q") == ["high", "middle", "low"]


@pytest.mark.disconnects
async def test_a_vanished_peer_cannot_settle(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await lost.vanish()
        try:
            refused = [r.why for r in await consumer.settle([Ack(delivery.tag, (to("r"),))])]
        except BrokerError as error:
            assert isinstance(error, BrokerUnavailable | Unconfirmed)
        else:
            assert refused == ["stale"]
    await depth_becomes(peer, "q", ready=1)
    assert await peer.broker.depth("r") == Depth()


@pytest.mark.disconnects
async def test_a_late_ack_from_a_new_connection_is_refused(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await lost.vanish()
    again = await engine.connect()
    async with again.broker.consume(["q"], prefetch=1) as late, peer.broker.consume(["q"], prefetch=1) as other:
        theirs = await one(other)
        assert [r.why for r in await late.settle([Ack(delivery.tag), Ack(theirs.tag)])] == ["stale", "stale"]
        await ack(other, theirs)


@pytest.mark.disconnects
async def test_a_peer_that_was_cut_off_cannot_settle_what_somebody_else_got_meanwhile(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    frozen = await engine.connect()
    async with frozen.broker.consume(["q"], prefetch=1) as holder, peer.broker.consume(["q"], prefetch=1) as other:
        delivery = await one(holder)
        async with frozen.cut():
            theirs = await one(other)
            late = asyncio.create_task(holder.settle([Ack(delivery.tag, (to("r"),))]))
            await peer.broker.depth("q")
        assert [r.why for r in await asyncio.wait_for(late, PATIENCE)] == ["stale"]
        assert await peer.broker.depth("q") == Depth(running=1)
        assert await peer.broker.depth("r") == Depth()
        await ack(other, theirs)


@pytest.mark.disconnects
async def test_a_peer_that_was_cut_off_goes_on_and_nothing_is_lost(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"), to("q", "b"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        async with peer.cut():
            pass
        refused = [r.why for r in await consumer.settle([Ack(delivery.tag)])]
        assert refused in ([], ["stale"])
        await send(peer, to("q", "c"))
    assert await drain(engine, peer, "q") == (["a", "b", "c"] if refused else ["b", "c"])


@pytest.mark.disconnects
async def test_what_two_peers_lost_comes_back_in_the_order_of_publishing(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(6)])
    one_peer, other = await engine.connect(), await engine.connect()
    async with one_peer.broker.consume(["q"], prefetch=9) as a, other.broker.consume(["q"], prefetch=9) as b:
        for consumer in (a, b, a, b):
            await one(consumer)
        await other.vanish()
        await depth_becomes(peer, "q", ready=4, running=2)
        await one_peer.vanish()
        await depth_becomes(peer, "q", ready=6)
    found = await drain(engine, peer, "q")
    assert (found if engine.keeps_order_of_losses else sorted(found)) == [str(n) for n in range(6)]


@pytest.mark.disconnects
async def test_a_message_may_be_lost_again_and_again_and_is_never_gone(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"), to("q", "b"))
    for _ in range(8):
        lost = await engine.connect()
        async with lost.broker.consume(["q"], prefetch=2) as consumer:
            found = names(await gather(consumer, 2))
            assert (found if engine.keeps_order_of_losses else sorted(found)) == ["a", "b"]
            await lost.vanish()
            await depth_becomes(peer, "q", ready=2)


@pytest.mark.disconnects
async def test_a_peer_that_vanishes_while_it_waits_takes_nothing_with_it(engine: EngineUnderTest, peer: Peer) -> None:
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=1) as consumer:
        waiting = asyncio.create_task(consumer.receive(1, 60.0))
        await lost.broker.depth("q")
        await lost.vanish()
        await asyncio.gather(waiting, return_exceptions=True)
    await send(peer, to("q", "a"))
    await depth_becomes(peer, "q", ready=1)
    assert await drain(engine, peer, "q") == ["a"]


@pytest.mark.disconnects
async def test_what_a_vanished_peer_held_may_be_purged(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(3)])
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=2) as consumer:
        await gather(consumer, 2)
        await lost.vanish()
        await depth_becomes(peer, "q", ready=3)
    assert await peer.broker.purge("q") == 3
    assert await drain(engine, peer, "q") == []
