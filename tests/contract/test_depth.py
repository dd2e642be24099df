"""What an operator sees of a queue, and how it is emptied."""

from __future__ import annotations

import pytest

from chappe.engines.contract.broker import Dead, Depth, Retry

from .engine import EngineUnderTest, Peer
from .scenes import ack, declare, depth_becomes, drain, gather, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


async def test_a_new_queue_is_empty(peer: Peer) -> None:
    assert await peer.broker.depth("q") == Depth(0, 0, 0, 0)


async def test_each_message_is_counted_in_exactly_one_state(peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(10)], to("q", delay=3600.0), to("r"))
    async with peer.broker.consume(["q"], prefetch=6) as consumer:
        a, b, c, d, e, _ = await gather(consumer, 6)
        assert await peer.broker.depth("q") == Depth(ready=4, running=6, delayed=1)
        await settle(consumer, Dead(a.tag, "no"), Retry(b.tag), Retry(c.tag, 3600.0), Retry(d.tag, counted=False))
        await depth_becomes(peer, "q", ready=6, running=2, delayed=2, dead=1)
        await ack(consumer, e)
        assert await peer.broker.depth("q") == Depth(ready=6, running=1, delayed=2, dead=1)
    await depth_becomes(peer, "q", ready=7, delayed=2, dead=1)
    assert await peer.broker.depth("r") == Depth(ready=1)


async def test_depth_counts_all_priorities_and_keys(peer: Peer) -> None:
    await send(peer, *[to("q", priority=n, key=str(n % 2)) for n in range(-3, 4)])
    async with peer.broker.consume(["q"], prefetch=9) as consumer:
        await gather(consumer, 2)
        assert await peer.broker.depth("q") == Depth(ready=5, running=2)


async def test_purge_deletes_what_is_ready_and_delayed_and_says_how_many(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", priority=n % 3) for n in range(5)], *[to("q", delay=3600.0) for _ in range(3)], to("r", "other"))
    assert await peer.broker.purge("q") == 8
    assert await peer.broker.depth("q") == Depth()
    assert await peer.broker.purge("q") == 0
    assert await drain(engine, peer, "q", "r") == ["other"]


async def test_purge_keeps_what_runs_and_what_is_dead(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(5)])
    async with peer.broker.consume(["q"], prefetch=3) as consumer:
        dead, done, back = await gather(consumer, 3)
        await settle(consumer, Dead(dead.tag, "no"))
        assert await peer.broker.purge("q") == 2
        assert await peer.broker.depth("q") == Depth(running=2, dead=1)
        await ack(consumer, done)
        await settle(consumer, Retry(back.tag))
        await depth_becomes(peer, "q", ready=1, dead=1)
    assert await drain(engine, peer, "q") == ["2"]
    assert len(await peer.store.letters()) == 1


async def test_purge_deletes_what_came_back(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a"), to("q", "b"))
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        a, b = await gather(consumer, 2)
        await settle(consumer, Retry(a.tag), Retry(b.tag, 3600.0))
    assert await peer.broker.purge("q") == 2
    assert await drain(engine, peer, "q") == []


async def test_a_purged_queue_works_as_before(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *[to("q", str(n), key=str(n % 2)) for n in range(10)])
    await peer.broker.purge("q")
    await send(peer, *[to("q", f"new {n}", key=str(n % 2)) for n in range(4)])
    assert await drain(engine, peer, "q") == [f"new {n}" for n in range(4)]


@pytest.mark.restarts
async def test_a_purge_survives_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q"), to("q", delay=3600.0))
    await peer.broker.purge("q")
    await engine.restart()
    peer = await engine.connect()
    assert await peer.broker.depth("q") == Depth()
    assert await drain(engine, peer, "q") == []


async def test_the_overview_has_every_queue_with_its_counts(peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(4)], to("q", delay=3600.0), to("r"))
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        first, _ = await gather(consumer, 2)
        await settle(consumer, Dead(first.tag, "no"))
        queues = {q.name: {k: getattr(q, k) for k in ("ready", "running", "delayed", "dead")} for q in (await peer.store.overview()).queues}
    assert queues == {"q": {"ready": 2, "running": 1, "delayed": 1, "dead": 1}, "r": {"ready": 1, "running": 0, "delayed": 0, "dead": 0}}


async def test_the_overview_shows_who_is_connected_and_what_they_hold(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    await send(other, to("q"), to("q"))
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        await gather(consumer, 2)
        clients = (await other.store.overview()).clients
    assert sorted(client.holding for client in clients) == [0, 2]
    assert len({client.name for client in clients}) == 2


async def test_the_overview_counts_what_waits_in_every_way(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", key="k"), to("q", "b", key="k"), to("q", "c", priority=5), to("q", "d", delay=3600.0, key="k"))
    (queue,) = [q for q in (await peer.store.overview()).queues if q.name == "q"]
    assert (queue.ready, queue.delayed, queue.is_estimate) == (3, 1, False)
