"""What was acknowledged is still there when the engine died and came back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from chappe.engines.contract.broker import Ack, Dead, Depth, Retry
from chappe.errors import BrokerUnavailable, Unconfirmed
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Publication
from chappe.messages.topology import Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import ack, declare, depth_becomes, drain, envelope, event, gather, name, names, nothing, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


pytestmark = pytest.mark.restarts


async def reborn(engine: EngineUnderTest) -> Peer:
    await engine.restart()
    return await engine.connect()


async def test_messages_are_still_there_in_their_order(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(10)], to("q", "high", priority=5))
    assert await drain(engine, await reborn(engine), "q") == ["high", *[str(n) for n in range(10)]]


async def test_messages_are_still_there_as_they_were_sent(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, sent := Publication(envelope("m", body=b"x" * 100_000), "q"))
    peer = await reborn(engine)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert (await one(consumer)).envelope == sent.envelope


async def test_the_topology_is_still_there(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e"),), (bind("bound", "e:a.*", origin="one"),)))
    peer = await reborn(engine)
    await send(peer, event("e", "a.b", "x"))
    await peer.broker.declare(Topology((Exchange("e"),), (bind("bound", "e:a.*"),)))
    assert await drain(engine, peer, "bound") == ["x"]


async def test_what_is_published_after_comes_behind_what_was_before(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "1"), to("q", "2"))
    peer = await reborn(engine)
    await send(peer, to("q", "3"))
    peer = await reborn(engine)
    await send(peer, to("q", "4"))
    assert await drain(engine, peer, "q") == ["1", "2", "3", "4"]


async def test_what_was_running_is_ready_at_its_old_place(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(5)])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        first, *_ = await gather(consumer, 3)
        await ack(consumer, first)
        peer = await reborn(engine)
    await depth_becomes(peer, "q", ready=4)
    found = await drain(engine, peer, "q")
    assert (found if engine.keeps_order_of_losses else sorted(found)) == ["1", "2", "3", "4"]


async def test_what_was_settled_stays_settled(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(4)])
    async with peer.broker.consume(["q"], prefetch=4) as consumer:
        a, b, c, d = await gather(consumer, 4)
        await settle(
            consumer, Ack(a.tag, (to("r", "then"),)), Dead(b.tag, "no"), Retry(c.tag, 3600.0), Retry(d.tag, note="n", error="boom")
        )
        peer = await reborn(engine)
    assert await peer.broker.depth("q") == Depth(ready=1, delayed=1, dead=1)
    async with peer.broker.consume(["q"], prefetch=4) as consumer:
        delivery = await one(consumer)
        assert (name(delivery), delivery.attempt, delivery.note) == ("3", 2, "n")
    assert await drain(engine, peer, "r") == ["then"]


async def test_a_key_keeps_its_order_with_the_message_that_was_running(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", text, key="k") for text in "abc"])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        await one(consumer)
        peer = await reborn(engine)
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        for text in "abc":
            delivery = await one(consumer)
            assert name(delivery) == text
            await nothing(engine, consumer)
            await ack(consumer, delivery)


@pytest.mark.restarts(moves_time=True)
async def test_a_key_is_still_taken_by_the_message_that_waits_for_its_retry(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", text, key="k") for text in "ab"])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, engine.soon * 2))
        peer = await reborn(engine)
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        if engine.time_stands:
            await nothing(engine, consumer)
        await engine.advance(engine.soon * 2)
        delivery = await one(consumer)
        assert (name(delivery), delivery.attempt) == ("a", 2)
        await nothing(engine, consumer)
        await ack(consumer, delivery)
        assert name(await one(consumer)) == "b"


@pytest.mark.restarts(moves_time=True)
async def test_a_delayed_message_is_still_delayed(engine: EngineUnderTest, peer: Peer) -> None:
    before = engine.now()
    await send(peer, to("q", "a", delay=engine.soon * 3), to("q", "never", delay=3600.0))
    peer = await reborn(engine)
    assert await peer.broker.depth("q") == Depth(delayed=2)
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        await engine.advance(engine.soon * 3)
        assert name(await one(consumer)) == "a"
        assert engine.now() - before >= engine.soon * 3
        await nothing(engine, consumer)


@pytest.mark.restarts(moves_time=True)
async def test_what_became_due_while_nobody_ran_comes_at_once(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "second", delay=engine.soon), to("q", "first", delay=engine.soon / 2))
    await engine.stop()
    await engine.drop_peers()
    await engine.advance(engine.soon)
    await engine.start()
    peer = await engine.connect()
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        assert names(await gather(consumer, 2)) == ["first", "second"]


async def test_states_results_and_progress_are_still_there(engine: EngineUnderTest, peer: Peer) -> None:
    done, running, waits = [r.id for r in await send(peer, *[to("q", n, tracked=True) for n in ("done", "running", "waits")])]
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        first, _ = await gather(consumer, 2)
        await settle(consumer, Ack(first.tag, result=b"42"))
        await peer.store.progress(running, 1, 2, "half")
        peer = await reborn(engine)
    assert ((state := await peer.store.state(done)).state, state.result) == ("done", b"42")
    assert ((state := await peer.store.state(running)).state, state.progress) == ("ready", (1, 2, "half"))
    assert (await peer.store.state(waits)).state == "ready"


async def test_the_history_of_errors_is_still_there(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, error="before"))
        peer = await reborn(engine)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "no"))
    (letter,) = await peer.store.letters()
    assert [(attempt, error) for _, attempt, error in letter.history] == [(1, "before")]
    assert letter.attempts == 2


async def test_a_delivery_of_before_cannot_be_settled_after(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        before = await one(consumer)
        peer = await reborn(engine)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert [r.why for r in await consumer.settle([Ack(before.tag)])] == ["stale"]
        assert name(await one(consumer)) == "a"


async def test_an_engine_may_die_again_and_again(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(6)])
    seen: list[str] = []
    for _ in range(3):
        async with peer.broker.consume(["q"], prefetch=3) as consumer:
            first, second = await gather(consumer, 2)
            seen.append(name(first))
            await ack(consumer, first)
            assert name(second) not in seen
            peer = await reborn(engine)
    found = [*seen, *await drain(engine, peer, "q")]
    assert (found if engine.keeps_order_of_losses else sorted(found)) == [str(n) for n in range(6)]


async def test_a_peer_that_outlives_the_engine_goes_on_with_what_it_holds(engine: EngineUnderTest, peer: Peer) -> None:
    if not engine.peers_survive:
        pytest.skip("the peers of this engine die with it")
    await send(peer, *[to("q", str(n)) for n in range(4)])
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        first, second = await gather(consumer, 2)
        await engine.restart(keep_peers=True)
        await peer.broker.depth("q")
        refused = await consumer.settle([Ack(first.tag)])
        assert [r.why for r in refused] in ([], ["stale"])
        await ack(consumer, second) if not refused else None
    left = await drain(engine, peer, "q")
    assert left == (["2", "3"] if not refused else ["0", "1", "2", "3"])


async def test_two_consumers_of_a_peer_both_go_on_after_the_engine_died(engine: EngineUnderTest, peer: Peer) -> None:
    if not engine.peers_survive:
        pytest.skip("the peers of this engine die with it")
    await send(peer, to("q", "a"), to("r", "b"))
    async with peer.broker.consume(["q"], prefetch=1) as a, peer.broker.consume(["r"], prefetch=1) as b:
        first, second = await one(a), await one(b)
        await engine.restart(keep_peers=True)
        await peer.broker.depth("q")
        await ack(a, first)
        await ack(b, second)
    assert await peer.broker.depth("q") == await peer.broker.depth("r") == Depth()


async def test_what_nobody_answers_is_an_error_within_the_deadline(engine: EngineUnderTest) -> None:
    peer = await engine.connect(deadline=1.0)
    await peer.broker.depth("q")
    await engine.stop()
    broker, store = peer.broker, peer.store
    verbs: list[Coroutine[Any, Any, object]] = [
        broker.publish([to("q")]), broker.depth("q"), broker.purge("q"), broker.declare(Topology()), store.state("x"), store.letters(),
        store.take("b", 1.0, 1), store.marks("x"), store.fire("s", 1.0, []), store.archived(0, 1), store.overview(),
    ]  # fmt: skip
    for answer in await asyncio.gather(*verbs, return_exceptions=True):
        assert isinstance(answer, BrokerUnavailable | Unconfirmed)


async def test_a_peer_that_never_found_an_engine_is_told_that_it_is_unavailable(engine: EngineUnderTest) -> None:
    await engine.stop()
    peer = await engine.connect(deadline=0.3)
    with pytest.raises((BrokerUnavailable, Unconfirmed)):
        await peer.broker.publish([to("q")])
