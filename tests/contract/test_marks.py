"""Which handlers finished a message, so that a retry does not run them again."""

from __future__ import annotations

import pytest

from chappe.engines.contract.broker import Ack, Dead, Depth, Retry
from chappe.errors import Unroutable

from .engine import EngineUnderTest, Peer
from .scenes import declare, depth_becomes, drain, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


async def test_a_message_without_marks_has_none(peer: Peer) -> None:
    assert set(await peer.store.marks("unknown")) == set()


async def test_marks_are_remembered_for_each_message(engine: EngineUnderTest, peer: Peer) -> None:
    for message, handler in (("1", "a"), ("1", "b"), ("2", "c"), ("1", "a")):
        await peer.store.mark(message, handler)
    other = await engine.connect()
    assert set(await other.store.marks("1")) == {"a", "b"}
    assert set(await other.store.marks("2")) == {"c"}


async def test_marks_are_forgotten_when_the_message_is_done(peer: Peer) -> None:
    (receipt,) = await send(peer, to("q"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await peer.store.mark(receipt.id, "a")
        await peer.store.mark("another", "b")
        await settle(consumer, Ack(delivery.tag, marked=True))
    assert set(await peer.store.marks(receipt.id)) == set()
    assert set(await peer.store.marks("another")) == {"b"}


@pytest.mark.parametrize("after", [0.0, 3600.0])
async def test_marks_stay_over_a_retry(peer: Peer, after: float) -> None:
    (receipt,) = await send(peer, to("q"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await peer.store.mark(receipt.id, "a")
        await settle(consumer, Retry(delivery.tag, after, error="boom"))
    assert set(await peer.store.marks(receipt.id)) == {"a"}


async def test_marks_stay_while_a_message_is_dead_and_when_it_is_retried(peer: Peer) -> None:
    (receipt,) = await send(peer, to("q"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await peer.store.mark(receipt.id, "a")
        await settle(consumer, Dead(delivery.tag, "no"))
        assert set(await peer.store.marks(receipt.id)) == {"a"}
        await peer.store.retry_letters([letter.number for letter in await peer.store.letters()])
        assert set(await peer.store.marks(receipt.id)) == {"a"}
        await settle(consumer, Ack((await one(consumer)).tag, marked=True))
    assert set(await peer.store.marks(receipt.id)) == set()


@pytest.mark.restarts
async def test_marks_stay_when_the_consumer_is_lost_and_over_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    (receipt,) = await send(peer, to("q"))
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=1) as consumer:
        await one(consumer)
        await lost.store.mark(receipt.id, "a")
        await lost.vanish()
        await depth_becomes(peer, "q", ready=1)
    assert set(await peer.store.marks(receipt.id)) == {"a"}
    await engine.restart()
    assert set(await (await engine.connect()).store.marks(receipt.id)) == {"a"}


async def test_what_a_handler_yielded_is_published_with_its_mark(engine: EngineUnderTest, peer: Peer) -> None:
    assert await peer.store.mark("1", "a", [to("q", "x"), to("r", "y")]) == []
    assert sorted(await drain(engine, peer, "q", "r")) == ["x", "y"]
    assert set(await peer.store.marks("1")) == {"a"}


async def test_a_mark_with_an_unroutable_publication_is_not_remembered(peer: Peer) -> None:
    with pytest.raises(Unroutable):
        await peer.store.mark("1", "a", [to("q"), to("missing")])
    assert set(await peer.store.marks("1")) == set()
    assert await peer.broker.depth("q") == Depth()


async def test_a_mark_whose_publication_must_be_merged_stores_nothing_and_shows_what_is_pending(
    engine: EngineUnderTest, peer: Peer
) -> None:
    first = to("q", "a", key="k", merges=True)
    await send(peer, first)
    other, receipt = await peer.store.mark("1", "h", [to("r"), to("q", "b", key="k", merges=True)])
    assert other.outcome == "stored"
    assert (receipt.outcome, receipt.pending) == ("pending", first.envelope)
    assert set(await peer.store.marks("1")) == set()
    assert await peer.broker.depth("r") == Depth()
    assert (
        await peer.store.mark("1", "h", [to("r"), to("q", "a+b", id=first.envelope.id, key="k", merges=True, replaces=receipt.version)])
        == []
    )
    assert await drain(engine, peer, "q") == ["a+b"]


async def test_two_of_one_key_in_one_mark_are_not_lost(peer: Peer) -> None:
    twice = [to("q", text, key="k", merges=True) for text in "ab"]
    assert [r.outcome for r in await peer.store.mark("1", "h", twice)] == ["stored", "pending"]
    assert set(await peer.store.marks("1")) == set()
    assert await peer.broker.depth("q") == Depth()
