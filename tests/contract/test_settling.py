"""How a delivery ends, and when its end is refused."""

from __future__ import annotations

import pytest

from chappe.engines.contract.broker import Ack, Dead, Depth, Refusal, Retry, Settlement
from chappe.messages.envelope import Publication

from .engine import EngineUnderTest, Peer
from .scenes import (
    End,
    ack,
    dead,
    declare,
    depth_becomes,
    done,
    drain,
    eventually,
    gather,
    later,
    name,
    names,
    nothing,
    one,
    send,
    settle,
    to,
)


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


def publishing(tag: int) -> Settlement:
    return Ack(tag, (to("r", "never"),))


def whys(refusals: list[Refusal]) -> list[tuple[int, str]]:
    return [(r.delivery, r.why) for r in refusals]


@pytest.mark.restarts
async def test_an_acknowledged_message_never_comes_back(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await ack(consumer, await one(consumer))
        assert await peer.broker.depth("q") == Depth()
    await engine.restart()
    peer = await engine.connect()
    assert await drain(engine, peer, "q") == []


async def test_nothing_settled_is_nothing_refused(peer: Peer) -> None:
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert await consumer.settle([]) == []


async def test_many_deliveries_end_in_one_call_each_in_its_own_way(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(5)])
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        a, b, c, d, e = await gather(consumer, 5)
        await settle(consumer, Ack(a.tag), Retry(b.tag), Dead(c.tag, "no"), Retry(d.tag, 3600.0), Ack(e.tag, (to("r", "then"),)))
        await depth_becomes(peer, "q", ready=1, delayed=1, dead=1)
        assert names(await gather(consumer, 1)) == ["1"]
    assert await drain(engine, peer, "r") == ["then"]


async def test_deliveries_may_end_in_another_order_than_they_came(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(4)])
    async with peer.broker.consume(["q"], prefetch=4) as consumer:
        got = await gather(consumer, 4)
        await ack(consumer, got[2], got[0])
    assert await drain(engine, peer, "q") == ["1", "3"]


async def test_what_an_ack_publishes_arrives(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(
            consumer, Ack((await one(consumer)).tag, (to("r", "1"), to("r", "2", priority=5), to("q", "3"), to("r", "4", delay=3600.0)))
        )
    assert await drain(engine, peer, "r") == ["2", "1"]
    assert await drain(engine, peer, "q") == ["3"]
    assert (await peer.broker.depth("r")).delayed == 1


async def test_an_ack_with_an_unroutable_publication_is_refused_stores_nothing_and_is_still_held(
    engine: EngineUnderTest, peer: Peer
) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        (refusal,) = await consumer.settle([Ack(delivery.tag, (to("r", "1"), to("missing", "2")))])
        assert (refusal.delivery, refusal.why) == (delivery.tag, "unroutable")
        assert "missing" in refusal.text
        assert await peer.broker.depth("q") == Depth(running=1)
        assert await peer.broker.depth("r") == Depth()
        await nothing(engine, consumer)
        await settle(consumer, Ack(delivery.tag, (to("r", "1"),)))
    assert await drain(engine, peer, "r") == ["1"]


async def test_a_refused_ack_does_not_keep_the_others_of_its_call_from_ending(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(3)])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        a, b, c = await gather(consumer, 3)
        assert whys(await consumer.settle([Ack(a.tag, (to("r", "then a"),)), Ack(b.tag, (to("missing"),)), Dead(c.tag, "no")])) == [
            (b.tag, "unroutable")
        ]
        assert await peer.broker.depth("q") == Depth(running=1, dead=1)
    assert await drain(engine, peer, "r") == ["then a"]


async def test_an_ack_whose_publication_reuses_a_key_is_refused_alone_and_is_still_held(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("r", "first", idempotency_key="i", fingerprint="x"))
    await send(peer, *[to("q", str(n)) for n in range(3)])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        a, b, c = await gather(consumer, 3)
        refusals = await consumer.settle(
            [Retry(a.tag, 3600.0), Ack(b.tag, (to("r", "1"), to("r", "2", idempotency_key="i", fingerprint="y"))), Ack(c.tag)]
        )
        assert [r.delivery for r in refusals] == [b.tag]
        assert await peer.broker.depth("q") == Depth(running=1, delayed=1)
        await ack(consumer, b)
    assert await drain(engine, peer, "r") == ["first"]


async def test_a_retried_message_comes_back_with_its_attempt_counted(peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        for attempt in (1, 2, 3, 4):
            delivery = await one(consumer)
            assert delivery.attempt == attempt
            await settle(consumer, Retry(delivery.tag))


@pytest.mark.parametrize(("error", "note"), [(None, None), ("boom", None), (None, "n"), ("boom", "n")])
async def test_an_uncounted_retry_spends_no_attempt(peer: Peer, error: str | None, note: str | None) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag))
        for _ in range(3):
            delivery = await one(consumer)
            assert delivery.attempt == 2
            await settle(consumer, Retry(delivery.tag, counted=False, error=error, note=note))


async def test_an_uncounted_retry_may_be_delayed(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, engine.soon, counted=False))
        await nothing(engine, consumer)
        await engine.advance(engine.soon)
        assert (await one(consumer)).attempt == 1


async def test_a_retry_leaves_the_envelope_as_it_was(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, sent := to("q", "a", priority=3, key="k"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, error="boom", note="n"))
        again = await one(consumer)
        assert again.envelope == sent.envelope
        await settle(consumer, Retry(again.tag, engine.soon))
        await engine.advance(engine.soon)
        assert (await one(consumer)).envelope == sent.envelope


async def test_the_note_of_a_retry_comes_with_the_next_delivery(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        first = await one(consumer)
        assert first.note is None
        await settle(consumer, Retry(first.tag, note="half of it"))
        second = await one(consumer)
        assert second.note == "half of it"
        await settle(consumer, Retry(second.tag, engine.soon, note="ünï 🌍"))
        await engine.advance(engine.soon)
        assert (await one(consumer)).note == "ünï 🌍"


async def test_a_message_that_is_retried_at_once_has_its_old_place(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(4)])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        for delivery in await gather(consumer, 3):
            await settle(consumer, Retry(delivery.tag, error="boom"))
    found = await drain(engine, peer, "q")
    assert (found if engine.keeps_order_of_losses else sorted(found)) == ["0", "1", "2", "3"]


async def test_a_retried_message_keeps_its_priority(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "low"), to("q", "high", priority=9))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, engine.soon))
        await engine.advance(engine.soon)
        await eventually(lambda: peer.broker.depth("q"), Depth(ready=2))
    assert await drain(engine, peer, "q") == ["high", "low"]


async def test_a_message_that_waits_for_its_retry_lets_others_pass(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"), to("q", "b"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, engine.soon))
        assert name(await one(consumer)) == "b"


async def test_a_dead_message_leaves_the_queue_and_is_kept(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "broken"))
        await nothing(engine, consumer)
    assert await peer.broker.depth("q") == Depth(dead=1)
    assert [letter.envelope.body for letter in await peer.store.letters()] == [b"a"]


async def test_a_delivery_that_never_was_is_stale(peer: Peer) -> None:
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert whys(await consumer.settle([Ack(10**12), Retry(-1), Dead(10**12 + 1, "no")])) == [
            (10**12, "stale"),
            (-1, "stale"),
            (10**12 + 1, "stale"),
        ]


@pytest.mark.parametrize("again", [done, later, dead, publishing])
async def test_a_second_settlement_is_stale_and_does_nothing(peer: Peer, again: End) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await ack(consumer, delivery)
        assert whys(await consumer.settle([again(delivery.tag)])) == [(delivery.tag, "stale")]
    assert await peer.broker.depth("q") == await peer.broker.depth("r") == Depth()


async def test_only_the_first_of_two_settlements_in_one_call_counts(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"), to("q", "b"))
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        a, b = await gather(consumer, 2)
        refusals = await consumer.settle([Ack(a.tag, (to("r", "once"),)), Ack(a.tag, (to("r", "twice"),)), Dead(b.tag, "no"), Ack(b.tag)])
        assert whys(refusals) == [(a.tag, "stale"), (b.tag, "stale")]
        assert await peer.broker.depth("q") == Depth(dead=1)
    assert await drain(engine, peer, "r") == ["once"]


async def test_an_uncounted_retry_ends_the_delivery_too(peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await settle(consumer, Retry(delivery.tag, counted=False))
        assert whys(await consumer.settle([Ack(delivery.tag)])) == [(delivery.tag, "stale")]
        await depth_becomes(peer, "q", ready=1)


async def test_nobody_settles_the_delivery_of_another_peer(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as holder, other.broker.consume(["q"], prefetch=1) as thief:
        delivery = await one(holder)
        assert whys(await thief.settle([Ack(delivery.tag)])) == [(delivery.tag, "stale")]
        assert await peer.broker.depth("q") == Depth(running=1)
        await ack(holder, delivery)


async def test_nobody_settles_the_delivery_of_another_consumer_of_its_peer(peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as holder, peer.broker.consume(["q"], prefetch=1) as thief:
        delivery = await one(holder)
        assert whys(await thief.settle([Ack(delivery.tag)])) == [(delivery.tag, "stale")]
        await ack(holder, delivery)


async def test_an_ack_may_publish_a_great_deal(peer: Peer) -> None:
    await send(peer, to("q", "a"))
    then = tuple(to("r", str(n)) for n in range(500))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, then))
    assert await peer.broker.depth("r") == Depth(ready=500)


async def test_a_message_may_be_followed_by_itself_again_and_again(peer: Peer) -> None:
    await send(peer, publication := to("q", "loop"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        for _ in range(5):
            delivery = await one(consumer)
            assert (name(delivery), delivery.attempt) == ("loop", 1)
            await settle(consumer, Ack(delivery.tag, (Publication(publication.envelope, "q"),)))
    assert await peer.broker.depth("q") == Depth(ready=1)
