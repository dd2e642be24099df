"""At most one message of a key runs at a time, in the order of publishing."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from chappe.engines.contract.broker import Ack, Dead, Depth, Retry
from chappe.messages.envelope import Publication

from .engine import EngineUnderTest, Peer
from .scenes import PATIENCE, End, ack, dead, declare, depth_becomes, done, drain, gather, name, names, nothing, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


def keyed(*texts: str, key: str = "k") -> list[Publication]:
    return [to("q", text, key=key) for text in texts]


async def test_one_answer_has_one_message_of_a_key(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed("a", "b", "c"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert names(await consumer.receive(10, PATIENCE)) == ["a"]
        await nothing(engine, consumer)
        assert await peer.broker.depth("q") == Depth(ready=2, running=1)


async def test_a_running_key_is_given_to_nobody_else(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    await send(peer, *keyed("a", "b"))
    async with peer.broker.consume(["q"], prefetch=1) as holder, other.broker.consume(["q"], prefetch=1) as waiter:
        await one(holder)
        await nothing(engine, waiter)


async def test_a_key_that_arrives_while_it_runs_waits(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed("a"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        first = await one(consumer)
        await send(peer, *keyed("b"))
        await nothing(engine, consumer)
        await ack(consumer, first)
        assert name(await one(consumer)) == "b"


async def test_messages_of_a_key_come_in_their_order(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed(*[str(n) for n in range(10)]))
    assert await drain(engine, peer, "q") == [str(n) for n in range(10)]


async def test_other_keys_and_messages_without_one_are_not_blocked(peer: Peer) -> None:
    await send(peer, *keyed("a", "b"), *keyed("c", key="other"), to("q", "d"), *keyed("e"), *keyed("f", key="third"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert names(await gather(consumer, 4)) == ["a", "c", "d", "f"]


async def test_a_key_that_becomes_free_lets_nobody_overtake(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed("1", "2"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        first = await one(consumer)
        await nothing(engine, consumer)
        await ack(consumer, first)
        second = await one(consumer)
        await send(peer, to("q", "3"), *keyed("4"))
        await ack(consumer, second)
    assert await drain(engine, peer, "q") == ["3", "4"]


async def test_a_long_row_of_one_key_does_not_hide_another(peer: Peer) -> None:
    await send(peer, *keyed(*[str(n) for n in range(300)]), *keyed("behind", key="other"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert names(await gather(consumer, 2, limit=3)) == ["0", "behind"]


@pytest.mark.parametrize("end", [done, dead])
async def test_the_next_of_a_key_comes_to_one_who_waits_when_the_first_ends(engine: EngineUnderTest, peer: Peer, end: End) -> None:
    other = await engine.connect()
    await send(peer, *keyed("a", "b"))
    async with peer.broker.consume(["q"], prefetch=1) as holder, other.broker.consume(["q"], prefetch=1) as waiter:
        first = await one(holder)
        waiting = asyncio.create_task(waiter.receive(1, 60.0))
        await other.broker.depth("q")
        await settle(holder, end(first.tag))
        assert names(await asyncio.wait_for(waiting, PATIENCE)) == ["b"]


async def test_a_key_is_free_again_when_its_last_message_ended(engine: EngineUnderTest, peer: Peer) -> None:
    for text in ("a", "b", "c"):
        await send(peer, *keyed(text))
        assert await drain(engine, peer, "q") == [text]


async def test_a_retried_message_keeps_its_turn(peer: Peer) -> None:
    await send(peer, *keyed("a", "b"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        for attempt in (1, 2, 3):
            delivery = await one(consumer)
            assert (name(delivery), delivery.attempt) == ("a", attempt)
            await settle(consumer, Retry(delivery.tag, error="boom"))
        await ack(consumer, await one(consumer))
        assert name(await one(consumer)) == "b"


@pytest.mark.parametrize("counted", [True, False])
async def test_the_key_stays_taken_while_a_message_waits_for_its_retry(engine: EngineUnderTest, peer: Peer, counted: bool) -> None:
    await send(peer, *keyed("a", "b"), *keyed("free", key="other"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        a, free = await gather(consumer, 2)
        await settle(consumer, Retry(a.tag, engine.soon, counted=counted), Ack(free.tag))
        await send(peer, *keyed("c"))
        await nothing(engine, consumer)
        await engine.advance(engine.soon)
        again = await one(consumer)
        assert (name(again), again.attempt) == ("a", 2 if counted else 1)
        await nothing(engine, consumer)
        await ack(consumer, again)
        assert name(await one(consumer)) == "b"


async def test_a_retried_message_keeps_its_turn_several_times(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed("a", "b", "c"))
    seen: list[str] = []
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        while len(seen) < 9:
            delivery = await one(consumer)
            seen.append(name(delivery))
            if delivery.attempt < 3:
                await settle(consumer, Retry(delivery.tag, engine.soon * 0.2))
                await engine.advance(engine.soon * 0.2)
            else:
                await ack(consumer, delivery)
    assert seen == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


@pytest.mark.disconnects
@pytest.mark.parametrize("polite", [True, False])
async def test_a_lost_message_keeps_its_turn(engine: EngineUnderTest, peer: Peer, polite: bool) -> None:
    await send(peer, *keyed("a", "b"))
    holder = await engine.connect()
    async with holder.broker.consume(["q"], prefetch=5) as consumer, peer.broker.consume(["q"], prefetch=5) as other:
        await one(consumer)
        await nothing(engine, other)
        await (holder.close if polite else holder.vanish)()
        again = await one(other)
        assert name(again) == "a"
        await nothing(engine, other)
        await ack(other, again)
        assert name(await one(other)) == "b"


async def test_purging_a_message_that_waits_for_its_retry_frees_the_key(peer: Peer) -> None:
    await send(peer, *keyed("a", "b"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, 3600.0))
        assert await peer.broker.purge("q") == 2
        await send(peer, *keyed("c"))
        assert name(await one(consumer)) == "c"


async def test_purging_what_waits_behind_a_running_message_leaves_the_key_taken(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed("a", "b"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        first = await one(consumer)
        assert await peer.broker.purge("q") == 1
        await send(peer, *keyed("c"))
        await nothing(engine, consumer)
        await ack(consumer, first)
        assert name(await one(consumer)) == "c"


async def test_what_an_ack_publishes_with_its_own_key_comes_after_it(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed("a", "b"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        first = await one(consumer)
        await settle(consumer, Ack(first.tag, tuple(keyed("then"))))
        assert name(await one(consumer)) == "b"
        await nothing(engine, consumer)
    assert await drain(engine, peer, "q") == ["b", "then"]


async def test_a_retried_dead_letter_waits_until_its_key_is_free(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed("a", "b"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "no"))
        running = await one(consumer)
        await peer.store.retry_letters([letter.number for letter in await peer.store.letters()])
        await nothing(engine, consumer)
        await ack(consumer, running)
        assert name(await one(consumer)) == "a"


async def test_priorities_do_not_let_two_of_a_key_run(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "low", key="k"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        first = await one(consumer)
        await send(peer, to("q", "high", key="k", priority=9), to("q", "lower", key="k", priority=-9))
        await nothing(engine, consumer)
        await ack(consumer, first)
        second = await one(consumer)
        await nothing(engine, consumer)
        await ack(consumer, second)
        third = await one(consumer)
        assert {name(second), name(third)} == {"high", "lower"}


async def test_a_delayed_message_takes_its_key_only_when_it_runs(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "later", key="k", delay=engine.soon), *keyed("a"))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        first = await one(consumer)
        assert name(first) == "a"
        await engine.advance(engine.soon)
        await depth_becomes(peer, "q", ready=1, running=1)
        await nothing(engine, consumer)
        await ack(consumer, first)
        assert name(await one(consumer)) == "later"


async def test_the_empty_key_is_a_key(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *keyed("a", "b", key=""))
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        await one(consumer)
        await nothing(engine, consumer)


async def test_many_keys_and_many_consumers_keep_the_order_of_each_key(engine: EngineUnderTest, peer: Peer) -> None:
    started: dict[str, list[int]] = defaultdict(list)
    running: set[str] = set()
    left = 300
    await send(peer, *[to("q", f"{n % 13}:{n}", key=str(n % 13)) for n in range(left)])

    async def consume(at: Peer, number: int) -> None:
        nonlocal left
        async with at.broker.consume(["q"], prefetch=6) as consumer:
            while left:
                for delivery in await consumer.receive(6, 0.05):
                    key, _, count = name(delivery).partition(":")
                    assert key not in running
                    running.add(key)
                    await asyncio.sleep(0)
                    running.discard(key)
                    if delivery.attempt == 1 and int(count) % 7 == number:
                        await settle(consumer, Retry(delivery.tag, error="boom"))
                    else:
                        started[key].append(int(count))
                        left -= 1
                        await ack(consumer, delivery)

    peers = [await engine.connect() for _ in range(3)]
    await asyncio.wait_for(asyncio.gather(*[consume(p, n) for n, p in enumerate(peers)]), 4 * PATIENCE)
    assert {key: found == sorted(found) for key, found in started.items()} == {str(n): True for n in range(13)}
    assert sum(map(len, started.values())) == 300
