"""Temporary queues: a consumer's own, which goes with it (row H3)."""

from __future__ import annotations

import asyncio

import pytest

from chappe.engines.contract.broker import Ack, Dead, Retry
from chappe.errors import Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Queue, Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import PATIENCE, ack, declare, drain, event, eventually, gather, later, name, names, nothing, one, send, settle, to

NEWS = bind("listener", "news:")


@pytest.fixture(autouse=True)
async def exchanges(peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("news", "fanout"), Exchange("topics", "topic"))))


async def is_taken(peer: Peer, exchange: str, key: str = "") -> bool:
    try:
        await peer.broker.publish([event(exchange, key, "probe")])
    except Unroutable:
        return False
    return True


async def test_each_consumer_has_its_own_from_the_moment_it_is_open(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    async with (
        peer.broker.consume([], prefetch=9, temporary=[NEWS]) as first,
        peer.broker.consume([], prefetch=9, temporary=[NEWS]) as second,
        other.broker.consume([], prefetch=9, temporary=[NEWS]) as third,
    ):
        await send(peer, event("news", "", "a"), event("news", "", "b"))
        for consumer in (first, second, third):
            got = await gather(consumer, 2)
            assert names(got) == ["a", "b"]
            assert [d.queue for d in got] == ["listener", "listener"]
            await ack(consumer, *got)
            await nothing(engine, consumer)


async def test_it_has_what_its_bindings_select(engine: EngineUnderTest, peer: Peer) -> None:
    bids = bind("bids", "topics:bid.*", "news:")
    async with peer.broker.consume([], prefetch=9, temporary=[bids]) as consumer:
        await send(peer, event("topics", "bid.raised", "a"), event("news", "", "b"))
        assert not await is_taken(peer, "topics", "lot.closed")
        assert names(await gather(consumer, 2)) == ["a", "b"]
        await nothing(engine, consumer)


async def test_it_is_served_beside_others(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "q")
    async with peer.broker.consume(["q"], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, to("q", "a"), event("news", "", "b"))
        got = await gather(consumer, 2)
        assert {d.queue: name(d) for d in got} == {"q": "a", "listener": "b"}
        await ack(consumer, *got)


async def test_it_goes_with_its_consumer_and_all_that_is_in_it(engine: EngineUnderTest, peer: Peer) -> None:
    async with peer.broker.consume([], prefetch=1, temporary=[NEWS]) as consumer:
        await send(peer, *[event("news", "", str(n)) for n in range(5)])
        await one(consumer)
    assert not await is_taken(peer, "news")
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await nothing(engine, consumer)


@pytest.mark.disconnects
async def test_it_goes_with_a_peer_that_vanished(engine: EngineUnderTest, peer: Peer) -> None:
    lost = await engine.connect()
    async with lost.broker.consume([], prefetch=1, temporary=[NEWS]) as consumer:
        await send(peer, event("news", "", "a"), event("news", "", "b"))
        await one(consumer)
        await lost.vanish()
        await eventually(lambda: is_taken(peer, "news"), False)


async def test_a_queue_of_the_same_binding_that_stays_has_its_own_copy(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.broker.declare(Topology(queues=(bind("kept", "news:"),)))
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, event("news", "", "a"))
        await ack(consumer, await one(consumer))
    assert await drain(engine, peer, "kept") == ["a"]


async def test_what_is_retried_comes_again_with_its_attempt_and_note(engine: EngineUnderTest, peer: Peer) -> None:
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, event("news", "", "a"))
        first = await one(consumer)
        await settle(consumer, Retry(first.tag, 0.05, error="not yet", note="1 of 2"))
        await engine.advance(0.1)
        second = await one(consumer)
        assert (name(second), second.attempt, second.note) == ("a", 2, "1 of 2")
        await settle(consumer, Retry(second.tag, 0.0))
        third = await one(consumer)
        assert (name(third), third.attempt, third.note) == ("a", 3, None)
        await settle(consumer, Retry(third.tag, 0.0, counted=False))
        fourth = await one(consumer)
        assert (name(fourth), fourth.attempt) == ("a", 3)
        await ack(consumer, fourth)
        await nothing(engine, consumer)


async def test_what_waits_for_its_next_attempt_goes_with_the_consumer(engine: EngineUnderTest, peer: Peer) -> None:
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, event("news", "", "a"))
        await settle(consumer, later((await one(consumer)).tag))
    assert not await is_taken(peer, "news")


async def test_what_is_dead_is_dropped(engine: EngineUnderTest, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, event("news", "", "a"), event("news", "", "b"))
        first, second = await gather(consumer, 2)
        await settle(consumer, Dead(first.tag, "failed", "an error"), Ack(second.tag))
        await nothing(engine, consumer)
    assert await peer.store.letters() == []
    assert not await is_taken(peer, "news")
    assert '"listener"' in caplog.text


async def test_an_ack_publishes_with_it_and_forgets_marks(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "q")
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, event("news", "", "a"), event("news", "", "b"))
        first, second = await gather(consumer, 2)
        await peer.store.mark(second.envelope.id, "handler", (), None)
        await settle(consumer, Ack(first.tag, (to("q", "c"),)), Ack(second.tag, (to("q", "d", priority=5),), marked=True))
        assert await peer.store.marks(second.envelope.id) == {}
    assert sorted(await drain(engine, peer, "q")) == ["c", "d"]


async def test_what_the_store_keeps_for_others_comes_too_once(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.broker.declare(Topology(queues=(bind("kept", "news:"),)))
    kept = (event("news", "", "late", delay=0.05), event("news", "", "tracked", tracked=True), event("news", "", "high", priority=5))
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, *kept)
        await engine.advance(0.1)
        got = await gather(consumer, 3)
        assert sorted(names(got)) == ["high", "late", "tracked"]
        await ack(consumer, *got)
        await nothing(engine, consumer)
    assert sorted(await drain(engine, peer, "kept")) == ["high", "late", "tracked"]


@pytest.mark.disconnects
async def test_a_consumer_whose_connection_was_cut_hears_again(engine: EngineUnderTest, peer: Peer) -> None:
    listener = await engine.connect()
    async with listener.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, event("news", "", "a"))
        await ack(consumer, await one(consumer))
        receiving = asyncio.create_task(gather(consumer, 1))
        async with listener.cut():
            pass
        async with asyncio.timeout(PATIENCE):
            while not receiving.done():
                await is_taken(peer, "news")
                await asyncio.sleep(0.05)
        assert names(await receiving) == ["probe"]


async def test_one_that_others_cannot_name_is_not_declared_for_all(engine: EngineUnderTest, peer: Peer) -> None:
    async with peer.broker.consume([], prefetch=9, temporary=[Queue("alone")]):
        with pytest.raises(Unroutable):
            await peer.broker.publish([to("alone")])


async def test_an_event_that_merges_still_waits_in_its_one_lasting_queue(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.broker.declare(Topology(queues=(bind("kept", "news:"),)))
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS, bind("other", "news:")]) as consumer:
        await send(peer, to("", "a", exchange="news", key="k", merges=True))
        (answer,) = await peer.broker.publish([to("", "b", exchange="news", key="k", merges=True)])
        assert answer.outcome == "pending"
        got = await gather(consumer, 2)
        assert sorted((d.queue, name(d)) for d in got) == [("listener", "a"), ("other", "a")]
        await ack(consumer, *got)
        await nothing(engine, consumer)
    assert await drain(engine, peer, "kept") == ["a"]


async def test_what_a_temporary_queue_loses_is_no_end_of_what_others_have_of_it(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.broker.declare(Topology(queues=(bind("kept", "news:"),)))
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        (receipt,) = await send(peer, event("news", "", "a", tracked=True))
        await settle(consumer, Dead((await one(consumer)).tag, "no"))
    assert (await peer.store.state(receipt.id)).state == "ready"
    assert await drain(engine, peer, "kept") == ["a"]
    assert (await peer.store.state(receipt.id)).state == "done"


async def test_deliveries_that_go_back_untouched_keep_their_order(engine: EngineUnderTest, peer: Peer) -> None:
    async with peer.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, *[event("news", "", str(n)) for n in range(4)])
        got = await gather(consumer, 4)
        await settle(consumer, Retry(got[1].tag, 0.0, error="once"))
        await settle(consumer, *[Retry(d.tag, 0.0, counted=False) for d in (got[0], *got[2:])])
        again = await gather(consumer, 4)
        assert sorted(names(again)) == ["0", "1", "2", "3"]
        assert [n for n in names(again) if n != "1"] == ["0", "2", "3"]


@pytest.mark.disconnects
async def test_a_consumer_that_does_not_receive_has_its_queue_again_after_its_connection_was_cut(
    engine: EngineUnderTest, peer: Peer
) -> None:
    listener = await engine.connect()
    async with listener.broker.consume([], prefetch=9, temporary=[NEWS]) as consumer:
        await send(peer, event("news", "", "a"))
        await ack(consumer, await one(consumer))
        async with listener.cut():
            pass
        await eventually(lambda: is_taken(peer, "news"), True)
        async with asyncio.timeout(PATIENCE):
            while not (got := await consumer.receive(1, 0.2)):  # the first may have gone the way of the old queue
                await is_taken(peer, "news")
        assert names(got) == ["probe"]
