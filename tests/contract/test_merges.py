"""At most one message of a merging key is pending: a second is merged into it by its sender."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chappe.engines.contract.broker import Ack, Dead, Depth, Retry
from chappe.messages.envelope import Publication, Receipt

from .engine import EngineUnderTest, Peer
from .scenes import PATIENCE, ack, declare, depth_becomes, drain, gather, name, names, nothing, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


def merging(text: str, *, queue: str = "q", key: str = "k", **options: Any) -> Publication:
    return to(queue, text, key=key, merges=True, **options)


def merged(text: str, into: Receipt, *, key: str = "k", queue: str = "q", **options: Any) -> Publication:
    """Return what a sender publishes after the answer *pending*."""
    assert into.pending is not None
    return to(queue, text, id=into.pending.id, key=key, merges=True, replaces=into.version, **options)


async def pending(peer: Peer, publication: Publication) -> Receipt:
    (receipt,) = await peer.broker.publish([publication])
    assert receipt.outcome == "pending"
    return receipt


async def test_a_second_message_of_a_pending_key_is_not_stored_and_shown_what_is_pending(engine: EngineUnderTest, peer: Peer) -> None:
    first = merging("a")
    await send(peer, first)
    receipt = await pending(peer, merging("b"))
    assert (receipt.id, receipt.pending) == (first.envelope.id, first.envelope)
    assert receipt.version is not None
    assert await drain(engine, peer, "q") == ["a"]


async def test_the_merged_message_takes_the_place_of_the_pending_one(engine: EngineUnderTest, peer: Peer) -> None:
    first = merging("a")
    await send(peer, first, to("q", "behind"))
    (receipt,) = await peer.broker.publish([merged("a+b", await pending(peer, merging("b")))])
    assert (receipt.id, receipt.outcome) == (first.envelope.id, "merged")
    assert await peer.broker.depth("q") == Depth(ready=2)
    assert await drain(engine, peer, "q") == ["a+b", "behind"]


async def test_many_messages_merge_into_one(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("0"))
    for n in range(1, 10):
        receipt = await pending(peer, merging(str(n)))
        assert receipt.pending is not None
        (done,) = await peer.broker.publish([merged(f"{receipt.pending.body.decode()}+{n}", receipt)])
        assert done.outcome == "merged"
    assert await drain(engine, peer, "q") == ["0+1+2+3+4+5+6+7+8+9"]


async def test_a_merge_with_a_stale_version_is_shown_the_newer_one(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a"))
    b, c = await pending(peer, merging("b")), await pending(peer, merging("c"))
    await peer.broker.publish([merged("a+b", b)])
    again = await pending(peer, merged("a+c", c))
    assert again.pending is not None
    assert again.pending.body == b"a+b"
    assert again.version != c.version
    await peer.broker.publish([merged("a+b+c", again)])
    assert await drain(engine, peer, "q") == ["a+b+c"]


async def test_many_senders_at_once_lose_no_part_of_the_merge(engine: EngineUnderTest, peer: Peer) -> None:
    async def add(text: str) -> None:
        sender = await engine.connect()
        (receipt,) = await sender.broker.publish([merging(text)])
        while receipt.outcome == "pending":
            assert receipt.pending is not None
            (receipt,) = await sender.broker.publish([merged(f"{receipt.pending.body.decode()}+{text}", receipt)])

    await asyncio.wait_for(asyncio.gather(*[add(str(n)) for n in range(8)]), PATIENCE)
    (only,) = await drain(engine, peer, "q")
    assert sorted(only.split("+")) == [str(n) for n in range(8)]


async def test_two_of_one_key_in_one_call_are_one_stored_and_one_pending(engine: EngineUnderTest, peer: Peer) -> None:
    first, second = await peer.broker.publish([merging("a"), merging("b")])
    assert (first.outcome, second.outcome) == ("stored", "pending")
    await peer.broker.publish([merged("a+b", second)])
    assert await drain(engine, peer, "q") == ["a+b"]


async def test_a_running_message_is_not_merged_into(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        running = await one(consumer)
        await send(peer, merging("b"))
        await nothing(engine, consumer)
        await ack(consumer, running)
        assert name(await one(consumer)) == "b"


async def test_at_most_one_runs_and_one_is_pending(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        await one(consumer)
        await send(peer, merging("b"))
        await peer.broker.publish([merged("b+c", await pending(peer, merging("c")))])
        assert await peer.broker.depth("q") == Depth(ready=1, running=1)
        await nothing(engine, consumer)


async def test_a_merge_that_comes_after_the_start_is_refused_and_the_original_is_stored_as_a_message_of_its_own(
    engine: EngineUnderTest, peer: Peer
) -> None:
    await send(peer, merging("a"))
    receipt = await pending(peer, merging("b"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        running = await one(consumer)
        (late,) = await peer.broker.publish([merged("a+b", receipt)])
        assert (late.outcome, late.pending) == ("pending", None)
        original = merging("b")
        assert [(r.outcome, r.id) for r in await peer.broker.publish([original])] == [("stored", original.envelope.id)]
        assert name(running) == "a"
        await ack(consumer, running)
        assert name(await one(consumer)) == "b"


async def test_other_keys_and_other_queues_do_not_merge(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a"), merging("b", key="other"), merging("c", queue="r"))
    assert await drain(engine, peer, "q") == ["a", "b"]
    assert await drain(engine, peer, "r") == ["c"]


async def test_a_delayed_message_is_merged_into_and_keeps_its_time(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a", delay=engine.soon))
    await peer.broker.publish([merged("a+b", await pending(peer, merging("b")))])
    assert await peer.broker.depth("q") == Depth(delayed=1)
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        await nothing(engine, consumer)
        await engine.advance(engine.soon)
        assert name(await one(consumer)) == "a+b"


async def test_a_message_that_became_due_is_still_merged_into(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a", delay=engine.soon))
    early = await pending(peer, merging("b"))
    await engine.advance(engine.soon)
    await depth_becomes(peer, "q", ready=1)
    assert [r.outcome for r in await peer.broker.publish([merged("a+b", early)])] == ["merged"]
    await peer.broker.publish([merged("a+b+c", await pending(peer, merging("c")))])
    assert await drain(engine, peer, "q") == ["a+b+c"]


async def test_a_retried_message_runs_before_what_is_pending(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        running = await one(consumer)
        await send(peer, merging("b"))
        await settle(consumer, Retry(running.tag, engine.soon))
        await peer.broker.publish([merged("b+c", await pending(peer, merging("c")))])
        await engine.advance(engine.soon)
        again = await one(consumer)
        assert (name(again), again.attempt) == ("a", 2)
        await ack(consumer, again)
        assert name(await one(consumer)) == "b+c"


@pytest.mark.disconnects
async def test_a_lost_message_runs_before_what_is_pending(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a"))
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=5) as consumer:
        await one(consumer)
        await send(peer, merging("b"))
        await lost.vanish()
        await depth_becomes(peer, "q", ready=2)
    await peer.broker.publish([merged("b+c", await pending(peer, merging("c")))])
    assert await drain(engine, peer, "q") == ["a", "b+c"]


async def test_the_key_has_nothing_pending_after_everything_ended(engine: EngineUnderTest, peer: Peer) -> None:
    for text in ("a", "b"):
        await send(peer, merging(text))
        assert await drain(engine, peer, "q") == [text]


async def test_purge_leaves_nothing_pending(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a"), merging("b", key="other", delay=3600.0))
    assert await peer.broker.purge("q") == 2
    await send(peer, merging("c"), merging("d", key="other"))
    assert await drain(engine, peer, "q") == ["c", "d"]


async def test_every_merged_message_gets_the_result_of_the_run_that_covers_it(peer: Peer) -> None:
    a, b, c = (merging(text, tracked=True) for text in "abc")
    await send(peer, a)
    for publication, text in ((b, "a+b"), (c, "a+b+c")):
        await peer.broker.publish([merged(text, await pending(peer, publication), tracked=True, merged_ids=(publication.envelope.id,))])
    for publication in (b, c):
        state = await peer.store.state(publication.envelope.id)
        assert (state.state, state.merged_into) == ("ready", a.envelope.id)
    waiting = [asyncio.create_task(peer.store.result(p.envelope.id, PATIENCE)) for p in (a, b, c)]
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        assert [(await peer.store.state(p.envelope.id)).state for p in (a, b, c)] == ["running"] * 3
        await settle(consumer, Ack(delivery.tag, result=b"42"))
    assert [(s.id, s.state, s.result) for s in await asyncio.gather(*waiting)] == [(p.envelope.id, "done", b"42") for p in (a, b, c)]


async def test_every_merged_message_is_dead_with_the_run_that_covers_it(peer: Peer) -> None:
    a, b = merging("a", tracked=True), merging("b", tracked=True)
    await send(peer, a)
    await peer.broker.publish([merged("a+b", await pending(peer, b), tracked=True, merged_ids=(b.envelope.id,))])
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "broken"))
    assert [(await peer.store.result(p.envelope.id, PATIENCE)).state for p in (a, b)] == ["dead", "dead"]


async def test_a_tracked_message_that_is_merged_into_an_untracked_one_gets_its_result(peer: Peer) -> None:
    b = merging("b", tracked=True)
    await send(peer, merging("a"))
    await peer.broker.publish([merged("a+b", await pending(peer, b), tracked=True, merged_ids=(b.envelope.id,))])
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, result=b"7"))
    assert (await peer.store.result(b.envelope.id, PATIENCE)).result == b"7"


async def test_what_is_published_during_a_run_gets_the_result_of_the_next(peer: Peer) -> None:
    a, b = merging("a", tracked=True), merging("b", tracked=True)
    await send(peer, a)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        running = await one(consumer)
        await send(peer, b)
        await settle(consumer, Ack(running.tag, result=b"1"))
        assert (await peer.store.state(b.envelope.id)).state in ("ready", "running"), "it may be pushed already"
        await settle(consumer, Ack((await one(consumer)).tag, result=b"2"))
    assert [(await peer.store.state(p.envelope.id)).result for p in (a, b)] == [b"1", b"2"]


async def test_an_ack_whose_publication_must_be_merged_is_refused_stores_nothing_and_is_still_held(
    engine: EngineUnderTest, peer: Peer
) -> None:
    await send(peer, to("r", "running"))
    first = merging("a")
    await send(peer, first)
    async with peer.broker.consume(["r"], prefetch=1) as consumer:
        delivery = await one(consumer)
        (refusal,) = await consumer.settle([Ack(delivery.tag, (to("r", "plain"), merging("b")))])
        assert (refusal.delivery, refusal.why) == (delivery.tag, "pending")
        _, receipt = refusal.receipts
        assert (receipt.id, receipt.outcome, receipt.pending) == (first.envelope.id, "pending", first.envelope)
        assert await peer.broker.depth("r") == Depth(running=1)
        await settle(consumer, Ack(delivery.tag, (to("r", "plain"), merged("a+b", receipt))))
    assert await drain(engine, peer, "q") == ["a+b"]
    assert await drain(engine, peer, "r") == ["plain"]


async def test_an_ack_with_a_stale_merge_is_refused_with_the_newer_version(peer: Peer) -> None:
    await send(peer, to("r"), merging("a"))
    async with peer.broker.consume(["r"], prefetch=1) as consumer:
        delivery = await one(consumer)
        (refusal,) = await consumer.settle([Ack(delivery.tag, (merging("b"),))])
        await peer.broker.publish([merged("a+c", await pending(peer, merging("c")))])
        (again,) = await consumer.settle([Ack(delivery.tag, (merged("a+b", refusal.receipts[0]),))])
        assert again.why == "pending"
        assert again.receipts[0].pending is not None
        assert again.receipts[0].pending.body == b"a+c"
        await settle(consumer, Ack(delivery.tag, (merged("a+c+b", again.receipts[0]),)))


async def test_two_of_one_key_in_one_ack_are_not_lost(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("r"))
    async with peer.broker.consume(["r"], prefetch=1) as consumer:
        delivery = await one(consumer)
        (refusal,) = await consumer.settle([Ack(delivery.tag, (merging("a"), merging("b")))])
        assert (refusal.delivery, refusal.why, [r.outcome for r in refusal.receipts]) == (delivery.tag, "pending", ["stored", "pending"])
        assert await peer.broker.depth("q") == Depth()
        await settle(consumer, Ack(delivery.tag, (merging("a+b"),)))
    assert await drain(engine, peer, "q") == ["a+b"]


async def test_an_ack_may_publish_a_message_of_its_own_key(peer: Peer) -> None:
    await send(peer, merging("a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, (merging("again"),)))
        assert name(await one(consumer)) == "again"


@pytest.mark.restarts
async def test_what_is_pending_is_still_merged_into_after_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, merging("a"), merging("later", key="other", delay=3600.0))
    early = await pending(peer, merging("b"))
    await engine.restart()
    peer = await engine.connect()
    assert [r.outcome for r in await peer.broker.publish([merged("a+b", early)])] == ["merged"]
    await peer.broker.publish([merged("a+b+c", await pending(peer, merging("c")))])
    await pending(peer, merging("d", key="other"))
    assert await drain(engine, peer, "q") == ["a+b+c"]


async def test_merging_messages_are_ordered_among_other_keys(peer: Peer) -> None:
    await send(peer, merging("a", key="1"), merging("b", key="2"), merging("c", key="3"))
    await peer.broker.publish([merged("a+", await pending(peer, merging("x", key="1")), key="1")])
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        assert names(await gather(consumer, 3)) == ["a+", "b", "c"]
