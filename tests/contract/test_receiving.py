"""What a consumer is given, when, and how much of it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from chappe.engines.contract.broker import Delivery, Depth
from chappe.worker.prefetch import ahead

from .engine import EngineUnderTest, Peer
from .scenes import (
    PATIENCE,
    End,
    ack,
    dead,
    declare,
    depth_becomes,
    done,
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
    await declare(peer, "q", "r", "s")


async def test_no_more_than_the_limit_is_given(peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(10)])
    async with peer.broker.consume(["q"], prefetch=100) as consumer:
        got = await consumer.receive(3, PATIENCE)
        assert 0 < len(got) <= 3
        await eventually(lambda: _running(peer), len(got))


async def test_what_is_there_is_given_without_waiting_for_the_limit(peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=100) as consumer:
        before = time.monotonic()
        assert names(await consumer.receive(100, 60.0)) == ["a"]
        assert time.monotonic() - before < PATIENCE


async def test_an_empty_queue_answers_with_nothing_after_the_wait(peer: Peer) -> None:
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        before = time.monotonic()
        assert await consumer.receive(1, 0.1) == []
        assert 0.095 <= time.monotonic() - before < PATIENCE


async def test_a_wait_ends_as_soon_as_there_is_one(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        waiting = asyncio.create_task(consumer.receive(1, 60.0))
        await other.broker.depth("q")
        await send(other, to("q", "a"))
        assert names(await asyncio.wait_for(waiting, PATIENCE)) == ["a"]


async def test_a_wait_that_ended_empty_takes_nothing_later(engine: EngineUnderTest, peer: Peer) -> None:
    async with peer.broker.consume(["q"], prefetch=1) as consumer, peer.broker.consume(["q"], prefetch=1) as next_one:
        await nothing(engine, consumer)
        await send(peer, to("q", "a"))
        assert name(await one(next_one)) == "a"


async def test_each_delivery_has_its_own_tag(peer: Peer) -> None:
    await send(peer, *[to("q") for _ in range(20)], *[to("r") for _ in range(20)])
    async with peer.broker.consume(["q", "r"], prefetch=100) as consumer:
        assert len({d.tag for d in await gather(consumer, 40)}) == 40


async def test_never_more_is_out_than_the_prefetch(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(10)])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        await gather(consumer, 3)
        await nothing(engine, consumer)
        assert (await peer.broker.depth("q")).running == 3


async def test_receives_at_the_same_time_share_one_prefetch(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(20)])
    async with peer.broker.consume(["q"], prefetch=4) as consumer:
        got, until = 0, time.monotonic() + PATIENCE
        while not got and time.monotonic() < until:
            got = sum(len(answer) for answer in await asyncio.gather(*[consumer.receive(3, engine.quiet) for _ in range(5)]))
        assert 0 < got <= 4
        assert (await peer.broker.depth("q")).running <= 4


@pytest.mark.parametrize("end", [done, later, dead])
async def test_what_is_settled_makes_room_for_another(engine: EngineUnderTest, peer: Peer, end: End) -> None:
    await send(peer, *[to("q", str(n)) for n in range(3)])
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        first, _ = await gather(consumer, 2)
        await settle(consumer, end(first.tag))
        assert name(await one(consumer)) == "2"
        await nothing(engine, consumer)


async def test_a_larger_prefetch_lets_more_out(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(10)])
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        await gather(consumer, 2)
        consumer.resize(5)
        assert names(await gather(consumer, 3)) == ["2", "3", "4"]
        await nothing(engine, consumer)


async def test_a_smaller_prefetch_leaves_what_is_out_and_lets_no_more_out_until_there_is_room(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(10)])
    async with peer.broker.consume(["q"], prefetch=4) as consumer:
        out = await gather(consumer, 4)
        consumer.resize(2)
        assert (await peer.broker.depth("q")).running == 4
        await ack(consumer, *out[:2])
        await nothing(engine, consumer)
        await ack(consumer, out[2])
        assert name(await one(consumer)) == "4"
        await nothing(engine, consumer)


async def test_several_queues_are_served_in_turn(peer: Peer) -> None:
    await send(peer, *[to(q, f"{q}{n}") for q in ("q", "r", "s") for n in range(6)])
    async with peer.broker.consume(["q", "r", "s"], prefetch=1) as consumer:
        order: list[str] = []
        for _ in range(9):
            delivery = await one(consumer)
            order.append(delivery.queue)
            await ack(consumer, delivery)
        assert sorted(order) == ["q"] * 3 + ["r"] * 3 + ["s"] * 3
        assert all(len(set(order[at : at + 3])) == 3 for at in range(0, 9, 3))


async def test_a_queue_that_is_always_full_does_not_starve_another(peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(50)], to("r", "waits"))
    async with peer.broker.consume(["q", "r"], prefetch=5) as consumer:
        seen: list[str] = []
        while "waits" not in seen:
            got = await gather(consumer, 5)
            seen += names(got)
            await ack(consumer, *got)
        assert len(seen) <= 15


async def test_order_holds_within_each_of_several_queues(peer: Peer) -> None:
    await send(peer, *[to(q, f"{q}{n}") for n in range(10) for q in ("q", "r")])
    async with peer.broker.consume(["q", "r"], prefetch=3) as consumer:
        seen: list[Delivery] = []
        while len(seen) < 20:
            got = await consumer.receive(3, PATIENCE)
            seen += got
            await ack(consumer, *got)
        for q in ("q", "r"):
            assert [name(d) for d in seen if d.queue == q] == [f"{q}{n}" for n in range(10)]


async def test_a_queue_that_was_not_asked_for_is_left_alone(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("r", "a"))
    async with peer.broker.consume(["q", "s"], prefetch=9) as consumer:
        await nothing(engine, consumer)


async def test_competing_consumers_never_share_a_message(engine: EngineUnderTest, peer: Peer) -> None:
    sent = [str(n) for n in range(200)]
    seen: list[str] = []

    async def consume(at: Peer) -> None:
        async with at.broker.consume(["q"], prefetch=7) as consumer:
            while len(seen) < len(sent):
                got = await consumer.receive(5, 0.05)
                seen.extend(names(got))
                await ack(consumer, *got)

    peers = [await engine.connect() for _ in range(4)]
    tasks = [asyncio.create_task(consume(p)) for p in peers]
    await send(peer, *[to("q", n) for n in sent[:100]])
    await send(peer, *[to("q", n) for n in sent[100:]])
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    assert sorted(seen) == sorted(sent)
    await depth_becomes(peer, "q")


async def test_w10_42_who_ask_for_as_much_as_a_slow_worker_does_all_get_something_which_one_without_a_bound_would_have_had(
    peer: Peer,
) -> None:
    await declare(peer, "q")
    await send(peer, *[to("q", f"m{number}") for number in range(42)])
    async with peer.broker.consume(["q"], prefetch=1000) as hoarder:
        assert len(await gather(hoarder, 42)) == 42
    async with contextlib.AsyncExitStack() as stack:
        consumers = [await stack.enter_async_context(peer.broker.consume(["q"], prefetch=1 + ahead(0.0, 1))) for _ in range(42)]
        assert {len(await gather(consumer, 1)) for consumer in consumers} == {1}


async def test_one_message_goes_to_one_of_those_who_wait(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    async with peer.broker.consume(["q"], prefetch=1) as a, other.broker.consume(["q"], prefetch=1) as b:
        waiting = {asyncio.create_task(c.receive(1, 60.0)) for c in (a, b)}
        sender = await engine.connect()
        await send(sender, to("q", "first"))
        (first,), (still,) = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await send(sender, to("q", "second"))
        assert [names(await first), names(await still)] == [["first"], ["second"]], "each is lent to one"


async def test_who_ends_one_and_asks_for_no_more_keeps_nothing_from_others(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"), to("q", "b"))
    async with peer.broker.consume(["q"], prefetch=1) as tired, peer.broker.consume(["q"], prefetch=1) as other:
        delivery = await one(tired)
        await asyncio.sleep(engine.quiet)  # long enough for whatever it does when nobody waits
        await ack(tired, delivery)
        assert name(await one(other)) == "b"


async def test_two_messages_go_to_two_who_wait(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    async with peer.broker.consume(["q"], prefetch=1) as a, other.broker.consume(["q"], prefetch=1) as b:
        waiting = [asyncio.create_task(c.receive(1, PATIENCE)) for c in (a, b)]
        await send(await engine.connect(), to("q", "1"), to("q", "2"))
        assert sorted(names([d for answer in await asyncio.gather(*waiting) for d in answer])) == ["1", "2"]


async def test_two_consumers_of_one_peer_have_each_their_own_prefetch(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(10)])
    async with peer.broker.consume(["q"], prefetch=2) as a, peer.broker.consume(["q"], prefetch=3) as b:
        assert names(await gather(a, 2) + await gather(b, 3)) == ["0", "1", "2", "3", "4"]
        await nothing(engine, a)
        await nothing(engine, b)


async def test_closing_one_consumer_of_a_peer_leaves_the_other_its_deliveries(peer: Peer) -> None:
    await send(peer, to("q", "a"), to("q", "b"))
    async with peer.broker.consume(["q"], prefetch=1) as kept:
        first = await one(kept)
        async with peer.broker.consume(["q"], prefetch=1) as closed:
            await one(closed)
        await depth_becomes(peer, "q", ready=1, running=1)
        await ack(kept, first)


async def test_a_cancelled_receive_loses_nothing(peer: Peer) -> None:
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        for steps in range(12):
            waiting = asyncio.create_task(consumer.receive(5, PATIENCE))
            publishing = asyncio.create_task(send(peer, to("q", str(steps))))
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            await publishing
            got = (await asyncio.gather(waiting, return_exceptions=True))[0]
            delivery = got[0] if isinstance(got, list) and got else await one(consumer)
            assert name(delivery) == str(steps)
            await ack(consumer, delivery)


async def test_closing_a_consumer_ends_its_wait(peer: Peer) -> None:
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        waiting = asyncio.create_task(consumer.receive(5, 60.0))
        await peer.broker.depth("q")
    assert await asyncio.wait_for(waiting, PATIENCE) == []


async def test_a_consumer_that_closes_while_it_is_given_something_gives_it_back(peer: Peer) -> None:
    for steps in range(12):
        async with peer.broker.consume(["q"], prefetch=5) as consumer:
            waiting = asyncio.create_task(consumer.receive(5, PATIENCE))
            publishing = asyncio.create_task(send(peer, to("q", str(steps))))
            for _ in range(steps):
                await asyncio.sleep(0)
        await publishing
        await waiting
        await depth_becomes(peer, "q", ready=1)
        await peer.broker.purge("q")


async def _running(peer: Peer) -> int:
    depth: Depth = await peer.broker.depth("q")
    return depth.running
