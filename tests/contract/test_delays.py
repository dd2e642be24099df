"""A delayed message comes when it is due, not before, and in the order of that."""

from __future__ import annotations

import asyncio

import pytest

from chappe.engines.contract.broker import Ack, Depth, Retry

from .engine import EngineUnderTest, Peer
from .scenes import declare, drain, eventually, gather, name, names, needs_moving_time, nothing, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q")


async def due(engine: EngineUnderTest, peer: Peer, seconds: float, ready: int) -> None:
    await engine.advance(seconds)
    await eventually(lambda: _ready(peer), ready)


async def _ready(peer: Peer) -> int:
    return (await peer.broker.depth("q")).ready


async def test_a_delayed_message_is_not_given_before_it_is_due(engine: EngineUnderTest, peer: Peer) -> None:
    before = engine.now()
    await send(peer, to("q", "a", delay=engine.soon))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await nothing(engine, consumer)
        await engine.advance(engine.soon * 0.5)
        await nothing(engine, consumer)
        await engine.advance(engine.soon * 0.5)
        await one(consumer)
        assert engine.now() - before >= engine.soon


async def test_a_wait_ends_when_a_delayed_message_is_due(engine: EngineUnderTest, peer: Peer) -> None:
    before = engine.now()
    await send(peer, to("q", "a", delay=0.2))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        waiting = asyncio.ensure_future(consumer.receive(1, 60.0))
        await engine.advance(0.2)
        assert names(await waiting) == ["a"]
        assert engine.now() >= before + 0.2


async def test_delayed_messages_come_in_the_order_in_which_they_are_due(engine: EngineUnderTest, peer: Peer) -> None:
    unit = engine.soon
    await send(peer, to("q", "third", delay=unit * 1.2), to("q", "first", delay=unit), to("q", "second", delay=unit * 1.1))
    await due(engine, peer, unit * 1.3, 3)
    assert await drain(engine, peer, "q") == ["first", "second", "third"]


async def test_equal_delays_keep_the_order_of_publishing(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n), delay=engine.soon) for n in range(20)])
    await due(engine, peer, engine.soon, 20)
    assert await drain(engine, peer, "q") == [str(n) for n in range(20)]


async def test_a_message_that_became_due_comes_after_those_that_were_ready_before(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "delayed", delay=engine.soon), to("q", "ready"))
    await due(engine, peer, engine.soon, 2)
    assert await drain(engine, peer, "q") == ["ready", "delayed"]


async def test_a_delayed_message_blocks_nobody(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", delay=3600.0), to("q", "b"))
    assert await drain(engine, peer, "q") == ["b"]
    assert await peer.broker.depth("q") == Depth(delayed=1)


async def test_due_messages_are_ordered_by_priority(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(p), delay=engine.soon, priority=p) for p in (1, 3, 2)])
    await due(engine, peer, engine.soon, 3)
    assert await drain(engine, peer, "q") == ["3", "2", "1"]


@pytest.mark.parametrize("delay", [0.0, -5.0])
async def test_no_delay_and_a_past_one_are_ready_at_once(engine: EngineUnderTest, peer: Peer, delay: float) -> None:
    await send(peer, to("q", "a", delay=delay), to("q", "b"))
    assert await peer.broker.depth("q") == Depth(ready=2)
    assert await drain(engine, peer, "q") == ["a", "b"]


async def test_what_an_ack_publishes_may_be_delayed(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, (to("q", "later", delay=engine.soon),)))
        await nothing(engine, consumer)
        await engine.advance(engine.soon)
        assert name(await one(consumer)) == "later"


async def test_a_retry_is_not_given_before_it_is_due(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        before = engine.now()
        await settle(consumer, Retry((await one(consumer)).tag, engine.soon))
        assert await peer.broker.depth("q") == Depth(delayed=1)
        await nothing(engine, consumer)
        await engine.advance(engine.soon)
        assert (await one(consumer)).attempt == 2
        assert engine.now() - before >= engine.soon


async def test_retries_come_in_the_order_in_which_they_are_due(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(3)])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        a, b, c = await gather(consumer, 3)
        await settle(consumer, Retry(a.tag, engine.soon * 1.2), Retry(b.tag, engine.soon), Retry(c.tag, engine.soon * 1.1))
    await due(engine, peer, engine.soon * 1.3, 3)
    assert await drain(engine, peer, "q") == ["1", "2", "0"]


async def test_a_long_delay_lasts_its_whole_time(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await send(peer, to("q", "a", delay=30 * 86400.0))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await engine.advance(30 * 86400.0 - 60.0)
        await nothing(engine, consumer)
        await engine.advance(60.0)
        assert name(await one(consumer)) == "a"


async def test_thousands_that_are_due_at_once_all_come(engine: EngineUnderTest, peer: Peer) -> None:
    count = 2500 if engine.time_stands else 300
    await send(peer, *[to("q", str(n), delay=engine.soon) for n in range(count)])
    await due(engine, peer, engine.soon, count)
    async with peer.broker.consume(["q"], prefetch=5000) as consumer:
        assert names(await gather(consumer, count, seconds=60.0)) == [str(n) for n in range(count)]
