"""A unique key refuses doubles for as long as it is taken."""

from __future__ import annotations

import pytest

from chappe.engines.contract.broker import Ack, Depth, Retry

from .engine import EngineUnderTest, Peer
from .scenes import End, ack, dead, declare, done, drain, needs_moving_time, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


async def refused(peer: Peer, first: str, *, unique: str = "u", queue: str = "q") -> None:
    before = await peer.broker.depth(queue)
    (receipt,) = await peer.broker.publish([to(queue, "double", unique=unique)])
    assert (receipt.id, receipt.outcome) == (first, "duplicate")
    assert await peer.broker.depth(queue) == before


async def test_a_double_is_answered_with_the_id_of_the_first_and_not_stored(engine: EngineUnderTest, peer: Peer) -> None:
    (receipt,) = await send(peer, to("q", "a", unique="u"))
    await refused(peer, receipt.id)
    assert await drain(engine, peer, "q") == ["a"]


async def test_other_unique_keys_are_independent(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", unique="u"), to("q", "b", unique="v"), to("q", "c"))
    assert await drain(engine, peer, "q") == ["a", "b", "c"]


async def test_a_double_in_the_same_call_is_refused_alone(engine: EngineUnderTest, peer: Peer) -> None:
    first, second, third = await peer.broker.publish([to("q", "a", unique="u"), to("q", "b", unique="u"), to("q", "c")])
    assert (first.outcome, second.outcome, second.id, third.outcome) == ("stored", "duplicate", first.id, "stored")
    assert await drain(engine, peer, "q") == ["a", "c"]


async def test_the_key_is_taken_while_its_message_is_delayed_running_or_waits_for_a_retry(peer: Peer) -> None:
    (delayed,) = await send(peer, to("q", unique="later", delay=3600.0))
    await refused(peer, delayed.id, unique="later")
    (receipt,) = await send(peer, to("q", "a", unique="u"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await refused(peer, receipt.id)
        await settle(consumer, Retry(delivery.tag))
        await refused(peer, receipt.id)
        await settle(consumer, Retry((await one(consumer)).tag, 3600.0))
        await refused(peer, receipt.id)


@pytest.mark.parametrize("end", [done, dead])
async def test_the_key_is_free_when_its_message_is_done_or_dead(peer: Peer, end: End) -> None:
    await send(peer, to("q", unique="u"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, end((await one(consumer)).tag))
    (receipt,) = await send(peer, to("q", unique="u"))
    await refused(peer, receipt.id)


async def test_purge_frees_the_keys_of_what_it_deletes(peer: Peer) -> None:
    await send(peer, to("q", unique="ready"), to("q", unique="delayed", delay=3600.0), to("r", unique="elsewhere"))
    await peer.broker.purge("q")
    await send(peer, to("q", unique="ready"), to("q", unique="delayed"))
    assert [r.outcome for r in await peer.broker.publish([to("q", unique="elsewhere")])] == ["duplicate"]


async def test_purge_leaves_the_key_of_a_running_message_taken(peer: Peer) -> None:
    (receipt,) = await send(peer, to("q", unique="u"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await peer.broker.purge("q")
        await refused(peer, receipt.id)
        await ack(consumer, delivery)
    await send(peer, to("q", unique="u"))


async def test_a_window_holds_the_key_after_its_message_is_done(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    (receipt,) = await send(peer, to("q", unique="u", unique_for=100.0))
    await drain(engine, peer, "q")
    await engine.advance(40.0)
    await refused(peer, receipt.id)
    await engine.advance(60.0)
    await send(peer, to("q", unique="u", unique_for=100.0))


async def test_a_window_frees_the_key_of_a_message_that_still_waits(engine: EngineUnderTest, peer: Peer) -> None:
    (receipt,) = await send(peer, to("q", unique="u", unique_for=engine.soon))
    await refused(peer, receipt.id)
    await engine.advance(engine.soon)
    await send(peer, to("q", unique="u"))
    assert await peer.broker.depth("q") == Depth(ready=2)


async def test_a_key_that_was_taken_again_is_not_freed_by_its_first_message(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", unique="u", unique_for=engine.soon))
    await engine.advance(engine.soon)
    (second,) = await send(peer, to("r", "b", unique="u"))
    assert await drain(engine, peer, "q") == ["a"]
    await refused(peer, second.id)


async def test_a_double_is_not_archived_nor_tracked(peer: Peer) -> None:
    await send(peer, to("q", "a", unique="u"))
    double = to("q", "b", unique="u", tracked=True)
    await peer.broker.publish([double])
    with pytest.raises(Exception, match=double.envelope.id):
        await peer.store.state(double.envelope.id)


@pytest.mark.restarts
async def test_the_key_is_still_taken_after_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    (receipt,) = await send(peer, to("q", "a", unique="u"))
    await engine.restart()
    peer = await engine.connect()
    await refused(peer, receipt.id)
    assert await drain(engine, peer, "q") == ["a"]
    await send(peer, to("q", unique="u"))


async def test_an_ack_may_publish_a_double_which_is_not_stored(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", unique="u"), to("r", "run"))
    async with peer.broker.consume(["r"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, (to("q", "double", unique="u"), to("q", "b"))))
    assert await drain(engine, peer, "q") == ["a", "b"]
