"""One budget of starts for all workers, by the generic cell rate algorithm."""

from __future__ import annotations

import asyncio

import pytest

from .engine import EngineUnderTest, Peer


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=20.0)


async def test_the_first_start_is_now(peer: Peer) -> None:
    assert await peer.store.take("b", 100.0, 1) == near(0)


async def test_starts_are_an_interval_apart(peer: Peer) -> None:
    assert [await peer.store.take("b", 100.0, 1) for _ in range(5)] == [near(100.0 * n) for n in range(5)]


async def test_a_burst_starts_at_once_and_then_the_interval_holds(peer: Peer) -> None:
    assert [await peer.store.take("b", 100.0, 3) for _ in range(6)] == [near(s) for s in (0, 0, 0, 100, 200, 300)]


async def test_budgets_are_independent(peer: Peer) -> None:
    await peer.store.take("a", 100.0, 1)
    assert await peer.store.take("b", 100.0, 1) == near(0)
    assert await peer.store.take("a", 100.0, 1) == near(100)


async def test_a_budget_is_one_for_all_peers(engine: EngineUnderTest, peer: Peer) -> None:
    peers = [peer, await engine.connect(), await engine.connect()]
    waits = await asyncio.gather(*[p.store.take("b", 100.0, 1) for p in peers * 2])
    assert sorted(waits) == [near(100.0 * n) for n in range(6)]


async def test_time_that_passes_makes_starts_free_again(engine: EngineUnderTest, peer: Peer) -> None:
    interval = engine.soon
    await peer.store.take("b", interval, 1)
    await engine.advance(interval)
    assert await peer.store.take("b", interval, 1) == 0
    assert await peer.store.take("b", interval, 1) == pytest.approx(interval, rel=0.3)


async def test_idle_time_is_not_saved_beyond_the_burst(engine: EngineUnderTest, peer: Peer) -> None:
    interval = engine.soon / 5
    await peer.store.take("b", interval, 2)
    await engine.advance(engine.soon)
    waits = [await peer.store.take("b", interval, 2) for _ in range(4)]
    assert waits[:2] == [0, 0]
    assert 0 < waits[2] < waits[3] <= interval * 2


async def test_a_budget_may_be_that_of_many_a_second(peer: Peer) -> None:
    waits = [await peer.store.take("b", 0.001, 1) for _ in range(20)]
    assert all(0 <= wait <= 0.02 for wait in waits)


@pytest.mark.restarts
async def test_a_budget_is_remembered_over_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.store.take("b", 1000.0, 1)
    await engine.restart()
    assert await (await engine.connect()).store.take("b", 1000.0, 1) > 900
