"""One budget of starts for all workers, by the generic cell rate algorithm, and the messages that wait until it has room."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from chappe.engines.contract.broker import Ack, Consumer, Delivery, Retry
from chappe.engines.contract.results import Start

from .engine import EngineUnderTest, Peer
from .scenes import declare, depth_becomes, drain, gather, name, needs_moving_time, nothing, one, send, settle, to

HOUR = 3600.0


async def taken(peer: Peer, count: int, interval: float = 100.0, burst: int = 1, budget: str = "b", **more: float) -> int:
    """Ask so often for a start, and return how often there was one."""
    return sum([(await peer.store.take(budget, interval, burst, within=more.get("within", 0.0))).granted for _ in range(count)])


async def run(peer: Peer, consumer: Consumer, count: int, interval: float = HOUR, burst: int = 1) -> list[str]:
    """Be a worker for so many deliveries: start those for which there is room, leave the others to their budget, and return the former."""
    return [started for delivery in await gather(consumer, count) for started in await start(peer, consumer, delivery, interval, burst)]


async def start(peer: Peer, consumer: Consumer, delivery: Delivery, interval: float = HOUR, burst: int = 1) -> list[str]:
    """Return the name of a delivery if there was room for it."""
    found = await peer.store.take("b", interval, burst, tag=delivery.tag)
    ending = Ack(delivery.tag) if found.granted else Retry(delivery.tag, found.wait, counted=False, budget="b")
    await settle(consumer, ending)
    return [name(delivery)] if found.granted else []


async def test_the_first_start_is_now(peer: Peer) -> None:
    assert await peer.store.take("b", 100.0, 1) == Start(granted=True, wait=0.0)


async def test_after_a_start_there_is_none_for_an_interval_and_asking_takes_nothing(peer: Peer) -> None:
    await peer.store.take("b", 100.0, 1)
    starts = [await peer.store.take("b", 100.0, 1) for _ in range(5)]
    assert starts == [Start(granted=False, wait=pytest.approx(100.0, abs=20.0))] * 5


async def test_a_burst_starts_at_once_and_then_the_interval_holds(peer: Peer) -> None:
    assert await taken(peer, 6, burst=3) == 3


async def test_a_start_may_be_taken_a_little_ahead(peer: Peer) -> None:
    starts = [await peer.store.take("b", 100.0, 1, within=250.0) for _ in range(4)]
    assert [start.granted for start in starts] == [True, True, True, False]
    assert [start.wait for start in starts] == [pytest.approx(100.0 * n, abs=20.0) for n in range(4)]


async def test_budgets_are_independent(peer: Peer) -> None:
    assert await taken(peer, 2, budget="a") == 1
    assert await taken(peer, 2, budget="b") == 1


async def test_a_budget_is_one_for_all_peers(engine: EngineUnderTest, peer: Peer) -> None:
    peers = [peer, await engine.connect(), await engine.connect()]
    starts = await asyncio.gather(*[p.store.take("b", 100.0, 2) for p in peers * 3])
    assert Counter(start.granted for start in starts) == {True: 2, False: 7}


async def test_time_that_passes_makes_starts_free_again(engine: EngineUnderTest, peer: Peer) -> None:
    interval = engine.soon
    await peer.store.take("b", interval, 1)
    await engine.advance(interval)
    assert await taken(peer, 2, interval) == 1


async def test_idle_time_is_not_saved_beyond_the_burst(engine: EngineUnderTest, peer: Peer) -> None:
    interval = engine.soon / 5
    await peer.store.take("b", interval, 2)
    await engine.advance(engine.soon)
    assert await taken(peer, 4, HOUR, 2) == 2


async def test_a_budget_may_be_that_of_many_a_second(peer: Peer) -> None:
    assert await taken(peer, 20, 0.001, within=60.0) == 20


async def test_a_budget_that_is_throttled_has_no_room_for_anybody_until_then(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    await other.store.throttle("b", engine.now() + 100.0)
    start = await peer.store.take("b", 1.0, 1)
    assert (start.granted, start.wait) == (False, pytest.approx(100.0, abs=20.0))
    await other.store.throttle("b", engine.now() + 1.0)
    assert await taken(peer, 1) == 0, "what was closed for longer stays closed"
    assert await taken(peer, 1, budget="another") == 1


async def test_a_throttled_budget_has_room_again(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.store.throttle("b", engine.now() + engine.soon)
    await engine.advance(engine.soon)
    assert await taken(peer, 3) == 1


@pytest.mark.restarts
async def test_a_budget_is_remembered_over_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.store.take("b", 1000.0, 1)
    await peer.store.throttle("c", engine.now() + 1000.0)
    await engine.restart()
    again = await engine.connect()
    assert (await again.store.take("b", 1000.0, 1)).wait > 900
    assert (await again.store.take("c", 1000.0, 1)).wait > 900


# --- what waits until there is room


async def test_what_comes_later_with_a_larger_priority_starts_first_when_there_is_room(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await send(peer, *[to("q", f"low{n}") for n in range(3)])
    started: list[str] = []
    async with peer.broker.consume(["q"], prefetch=100) as consumer:
        started += await run(peer, consumer, 3)
        await send(peer, to("q", "high", priority=9))
        started += await run(peer, consumer, 1)
        for _ in range(3):
            await engine.advance(HOUR)
            started += await run(peer, consumer, 1)
    assert started == ["low0", "high", "low1", "low2"]


async def test_no_more_come_back_than_there_is_room_for(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await send(peer, *[to("q", f"m{n:02d}") for n in range(40)])
    async with peer.broker.consume(["q"], prefetch=100) as consumer:
        assert await run(peer, consumer, 40, burst=2) == ["m00", "m01"]
        await nothing(engine, consumer)
        await depth_becomes(peer, "q", delayed=38)
        await engine.advance(HOUR)
        assert await run(peer, consumer, 1, burst=2) == ["m02"]
        await nothing(engine, consumer)
        await engine.advance(5 * HOUR)
        assert await run(peer, consumer, 2, burst=2) == ["m03", "m04"]
        await nothing(engine, consumer)


async def test_several_workers_start_no_more_than_one_alone(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await send(peer, *[to("q", f"m{n:02d}") for n in range(12)])
    peers = [peer, await engine.connect(), await engine.connect()]

    async def work(each: Peer) -> list[str]:
        started: list[str] = []
        async with each.broker.consume(["q"], prefetch=4) as consumer:
            while (await each.broker.depth("q")).ready:
                started += [one for d in await consumer.receive(1, engine.quiet) for one in await start(each, consumer, d)]
        return started

    rounds: list[list[str]] = []
    for number in range(4):
        await depth_becomes(peer, "q", ready=1 if number else 12, delayed=12 - number - 1 if number else 0)
        rounds.append(sum(await asyncio.gather(*map(work, peers)), []))
        await engine.advance(HOUR)
    assert [len(started) for started in rounds] == [1, 1, 1, 1]
    started = [name for round_ in rounds for name in round_]
    assert len(set(started)) == 4
    if engine.keeps_order_of_losses:
        assert started[1:] == sorted(started[1:])


async def test_one_that_may_not_start_leaves_its_turn_to_the_next(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await peer.store.take("b", HOUR, 1)
    await send(peer, to("q", "waits"), to("q", "free"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert await run(peer, consumer, 1) == []
        free = await one(consumer)
        assert name(free) == "free"


async def test_one_that_comes_later_is_not_started_before_those_that_wait(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await send(peer, to("q", "first"), to("q", "second"), to("q", "last"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        first, second, last = await gather(consumer, 3)
        assert (await peer.store.take("b", HOUR, 1, tag=first.tag)).granted
        await settle(consumer, Retry(second.tag, HOUR, counted=False, budget="b"))
        assert not (await peer.store.take("b", HOUR, 1, within=1e6, tag=last.tag)).granted
        if engine.keeps_order_of_losses:
            assert (await peer.store.take("b", HOUR, 1, within=1e6, tag=first.tag)).granted, "it stands before"


async def test_what_waits_for_a_throttled_budget_waits_as_long(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await send(peer, to("q", "a"), to("q", "b"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert await run(peer, consumer, 2) == ["a"]
        await peer.store.throttle("b", engine.now() + 3 * HOUR)
        await engine.advance(HOUR)
        await nothing(engine, consumer)
        await engine.advance(2 * HOUR)
        assert await run(peer, consumer, 1) == ["b"]


async def test_what_waits_for_a_budget_keeps_its_attempt_its_note_and_its_key(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await peer.store.take("b", HOUR, 1)
    await send(peer, to("q", "a", key="k"), to("q", "b", key="k"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        first = await one(consumer)
        await settle(consumer, Retry(first.tag, 0.0, counted=False, note="mine", budget="b"))
        await nothing(engine, consumer)
        await engine.advance(HOUR)
        again = await one(consumer)
        assert (name(again), again.attempt, again.note) == ("a", 1, "mine")
        await nothing(engine, consumer)


async def test_what_waits_for_a_budget_is_merged_into(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await peer.store.take("b", HOUR, 1)
    (stored,) = await send(peer, to("q", "old", key="k", merges=True))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert await run(peer, consumer, 1) == []
        (pending,) = await peer.broker.publish([to("q", "new", key="k", merges=True)])
        assert (pending.outcome, pending.id) == ("pending", stored.id)
        (merged,) = await peer.broker.publish([to("q", "both", key="k", merges=True, replaces=pending.version, merged_ids=("x",))])
        assert merged.outcome == "merged"
        await engine.advance(HOUR)
        assert await run(peer, consumer, 1) == ["both"]
        await depth_becomes(peer, "q")


async def test_what_waits_for_a_budget_is_purged(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await peer.store.take("b", HOUR, 1)
    await send(peer, to("q", "a", key="k"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert await run(peer, consumer, 1) == []
        assert await peer.broker.purge("q") == 1
        await engine.advance(HOUR)
        await send(peer, to("q", "b", key="k"))
        assert await run(peer, consumer, 1) == ["b"]


async def test_what_waits_for_a_budget_is_carried_to_another_engine_as_ready(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await peer.store.take("b", HOUR, 1)
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert await run(peer, consumer, 1) == []
    (exported,) = await peer.store.export_messages("q", "delayed", later=60.0)
    assert (exported.envelope.body, exported.delay) == (b"a", 0.0)
    assert await peer.store.delete_delayed("q", [exported.place]) == [exported.place]
    await depth_becomes(peer, "q")


@pytest.mark.restarts(moves_time=True)
async def test_what_waits_for_a_budget_waits_over_a_restart_in_its_order(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q")
    await send(peer, to("q", "a"), to("q", "b"), to("q", "c", priority=5))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert await run(peer, consumer, 3) == ["c"]
    await engine.restart()
    peer = await engine.connect()
    assert await drain(engine, peer, "q") == []
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        for wanted in ("a", "b"):
            await engine.advance(HOUR)
            assert await run(peer, consumer, 1) == [wanted]


async def test_a_budget_that_is_learned_has_no_pace_before_something_was_refused(peer: Peer) -> None:
    starts = [await peer.store.take("learned", None, 1) for _ in range(20)]
    assert all(start.granted for start in starts)
    (status,) = await peer.store.budgets()
    assert (status.name, status.is_learned, status.limit) == ("learned", True, None)


async def test_a_budget_that_is_learned_is_closed_by_a_refusal_and_knows_then_how_much_is_allowed(
    engine: EngineUnderTest, peer: Peer
) -> None:
    for _ in range(6):
        await peer.store.take("learned", None, 1)
    await peer.store.throttle("learned", engine.now() + 800)
    refused = await peer.store.take("learned", None, 1)
    assert (refused.granted, refused.wait) == (False, pytest.approx(800, abs=60))
    (status,) = await peer.store.budgets()
    assert (status.limit, status.window, status.left) == (5, 900.0, 0)
    assert status.since == pytest.approx(engine.now(), abs=60)


async def test_a_refusal_of_unknown_length_closes_only_a_budget_that_is_learned(peer: Peer) -> None:
    for _ in range(3):
        await peer.store.take("learned", None, 1)
    await peer.store.throttle("learned", None)
    await peer.store.throttle("unknown", None)
    assert not (await peer.store.take("learned", None, 1)).granted
    assert (await peer.store.take("unknown", None, 1)).granted


@pytest.mark.restarts(moves_time=True)
@pytest.mark.parametrize("learned", [False, True])
async def test_a_backlog_of_31_with_a_cap_of_5_leaves_over_a_restart_as_if_there_was_none(
    engine: EngineUnderTest, peer: Peer, learned: bool
) -> None:
    needs_moving_time(engine)
    allowed, begin = [0] * 8, engine.now()
    restarted = False
    while sum(allowed) < 31:
        window = int((engine.now() - begin) // 900)
        if window == 3 and not restarted:
            await engine.restart()
            peer, restarted = await engine.connect(), True
        if (await peer.store.take("pocket:ada", None if learned else 180.0, 1)).granted:
            if allowed[window] < 5:
                allowed[window] += 1
                continue
            assert learned
            await peer.store.throttle("pocket:ada", begin + (window + 1) * 900)
        await engine.advance(15.0)
    assert allowed[:7] == [5, 5, 5, 5, 5, 5, 1]


async def test_budgets_are_listed_by_name_with_their_pace(peer: Peer) -> None:
    await peer.store.take("b", 100.0, 3)
    await peer.store.take("a", 0.5, 1)
    found = await peer.store.budgets()
    assert [(one.name, one.interval, one.burst, one.is_learned) for one in found] == [("a", 0.5, 1, False), ("b", 100.0, 3, False)]
    assert found[1].opens == 0.0
