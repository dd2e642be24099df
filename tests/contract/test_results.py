"""Where a tracked message is in its life, and how it ended."""

from __future__ import annotations

import asyncio
import time

import pytest

from chappe.engines.contract.broker import Ack, Dead, Retry
from chappe.errors import NotFound

from .engine import EngineUnderTest, Peer
from .scenes import PATIENCE, declare, depth_becomes, eventually, needs_moving_time, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


async def tracked(peer: Peer, text: str = "a", delay: float = 0.0) -> str:
    return (await send(peer, to("q", text, delay=delay, tracked=True)))[0].id


async def state(peer: Peer, identity: str) -> str:
    return (await peer.store.state(identity)).state


async def test_a_tracked_message_goes_through_all_five_states(engine: EngineUnderTest, peer: Peer) -> None:
    done, dead = await tracked(peer, "done", engine.soon), await tracked(peer, "dead", engine.soon)
    assert [await state(peer, i) for i in (done, dead)] == ["delayed"] * 2
    await engine.advance(engine.soon)
    await depth_becomes(peer, "q", ready=2)
    assert [await state(peer, i) for i in (done, dead)] == ["ready"] * 2
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        first, second = await one(consumer), await one(consumer)
        assert [await state(peer, i) for i in (done, dead)] == ["running"] * 2
        await settle(consumer, Ack(first.tag), Dead(second.tag, "broken"))
    assert [await state(peer, i) for i in (done, dead)] == ["done", "dead"]


async def test_a_state_tells_what_and_where(peer: Peer) -> None:
    identity = await tracked(peer)
    found = await peer.store.state(identity)
    assert (found.id, found.type, found.queue, found.result, found.error, found.progress, found.merged_into) == (
        identity,
        "test.message",
        "q",
        None,
        None,
        None,
        None,
    )


async def test_a_message_that_waits_for_its_retry_is_delayed_and_one_retried_at_once_is_ready(peer: Peer) -> None:
    identity = await tracked(peer)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag))
        assert await state(peer, identity) == "ready"
        await settle(consumer, Retry((await one(consumer)).tag, 3600.0))
        assert await state(peer, identity) == "delayed"


@pytest.mark.disconnects
async def test_a_lost_message_is_ready(engine: EngineUnderTest, peer: Peer) -> None:
    identity = await tracked(peer)
    lost = await engine.connect()
    async with lost.broker.consume(["q"], prefetch=1) as consumer:
        await one(consumer)
        await lost.vanish()
        await eventually(lambda: state(peer, identity), "ready")


@pytest.mark.parametrize("result", [b'{"answer": 42}', b"", None, b"\x00" * 100_000], ids=["json", "empty", "none", "large"])
async def test_the_result_of_a_done_message_is_kept(engine: EngineUnderTest, peer: Peer, result: bytes | None) -> None:
    identity = await tracked(peer)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, result=result))
    for look in (peer, await engine.connect()):
        found = await look.store.state(identity)
        assert (found.state, found.result, found.error) == ("done", result, None)


async def test_a_dead_message_tells_why(peer: Peer) -> None:
    identity = await tracked(peer)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "rejected", "ValueError: 13"))
    found = await peer.store.result(identity, PATIENCE)
    assert found.state == "dead"
    assert found.error is not None and "rejected" in found.error and "ValueError: 13" in found.error


async def test_waiting_for_a_result_ends_when_it_is_there(engine: EngineUnderTest, peer: Peer) -> None:
    identity = await tracked(peer)
    waiters = [peer, await engine.connect(), await engine.connect()]
    waiting = [asyncio.create_task(w.store.result(identity, 60.0)) for w in waiters]
    for waiter in waiters:
        await waiter.store.state(identity)
    worker = await engine.connect()
    async with worker.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, result=b"7"))
    assert [(s.state, s.result) for s in await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)] == [("done", b"7")] * 3


async def test_waiting_for_a_result_ends_when_its_message_is_dead(peer: Peer) -> None:
    identity = await tracked(peer)
    waiting = asyncio.create_task(peer.store.result(identity, 60.0))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "broken"))
    assert (await asyncio.wait_for(waiting, PATIENCE)).state == "dead"


async def test_waiting_for_a_result_ends_when_its_message_is_purged(peer: Peer) -> None:
    identity = await tracked(peer)
    waiting = asyncio.create_task(peer.store.result(identity, 60.0))
    await peer.store.state(identity)
    await peer.broker.purge("q")
    assert (await asyncio.wait_for(waiting, PATIENCE)).state == "dead"


async def test_waiting_too_short_tells_where_the_message_is_and_it_goes_on(peer: Peer) -> None:
    identity = await tracked(peer)
    before = time.monotonic()
    assert (await peer.store.result(identity, 0.1)).state == "ready"
    assert time.monotonic() - before >= 0.095
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        assert (await peer.store.result(identity, 0.0)).state == "running"
        await settle(consumer, Ack(delivery.tag, result=b"7"))
    assert (await peer.store.result(identity, 60.0)).result == b"7"


async def test_an_unknown_message_is_not_found(peer: Peer) -> None:
    for look in (peer.store.state("missing"), peer.store.result("missing", 1.0)):
        with pytest.raises(NotFound, match="missing"):
            await look


async def test_a_message_that_is_not_tracked_is_not_found(peer: Peer) -> None:
    (receipt,) = await send(peer, to("q"))
    with pytest.raises(NotFound):
        await peer.store.state(receipt.id)


async def test_progress_is_shown_and_replaced(engine: EngineUnderTest, peer: Peer) -> None:
    identity, other = await tracked(peer, "a"), await tracked(peer, "b")
    await peer.store.progress(identity, 1, 10, "starting")
    await peer.store.progress(identity, 7, 10, "Zürich 🌍")
    look = await engine.connect()
    assert (await look.store.state(identity)).progress == (7, 10, "Zürich 🌍")
    assert (await look.store.state(other)).progress is None


async def test_progress_of_an_unknown_message_is_no_error(peer: Peer) -> None:
    await peer.store.progress("missing", 1, 2, "")


async def test_a_retried_dead_letter_is_ready_again_and_may_be_done(peer: Peer) -> None:
    identity = await tracked(peer)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "broken"))
    await peer.store.retry_letters([letter.number for letter in await peer.store.letters()])
    found = await peer.store.state(identity)
    assert (found.state, found.error) == ("ready", None)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, result=b"7"))
    assert (await peer.store.result(identity, PATIENCE)).result == b"7"


async def test_an_ack_may_publish_a_tracked_message(peer: Peer) -> None:
    await send(peer, to("q"))
    then = to("r", "then", tracked=True)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        with pytest.raises(NotFound):
            await peer.store.state(then.envelope.id)
        await settle(consumer, Ack(delivery.tag, (then,)))
    found = await peer.store.state(then.envelope.id)
    assert (found.state, found.queue) == ("ready", "r")


async def test_a_result_is_kept_for_a_day(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    identity = await tracked(peer)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, result=b"7"))
    await engine.advance(24 * 3600.0 - 1)
    assert (await peer.store.state(identity)).result == b"7"
