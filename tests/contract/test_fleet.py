"""What operators want is remembered with who and when, and a paused queue lends nothing."""

from __future__ import annotations

import pytest

from chappe.bus.draft import new_id
from chappe.engines.contract.broker import Ack, Dead, Retry
from chappe.engines.contract.fleet import PAUSED
from chappe.errors import NotFound, Rejected
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Binding, Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import ack, declare, drain, event, gather, names, nothing, one, send, settle, to


async def pause(peer: Peer, queue: str, value: str | None = PAUSED) -> None:
    """Pause or resume a queue, or skip where that cannot be done."""
    try:
        await peer.store.desire(f"queue:{queue}", value, "ann")
    except Rejected as error:
        pytest.skip(str(error))


async def test_of_each_thing_the_latest_counts_with_who_and_when(engine: EngineUnderTest, peer: Peer) -> None:
    first = await peer.store.desire("pool:import", "20", "ann")
    await peer.store.desire("intake", PAUSED, "bob")
    last = await peer.store.desire("pool:import", "4", "bob")
    wanted = await (await engine.connect()).store.desired()
    assert [(d.what, d.value, d.who) for d in wanted] == [("intake", PAUSED, "bob"), ("pool:import", "4", "bob")]
    assert first.number < last.number == wanted[-1].number
    assert abs(wanted[-1].at - engine.now()) < 3600.0


async def test_only_what_was_said_later_is_told_to_who_knows_the_rest(peer: Peer) -> None:
    known = await peer.store.desire("pool:a", "1", "ann")
    await peer.store.desire("pool:b", "2", "ann")
    await peer.store.desire("pool:b", None, "ann")
    assert [(d.what, d.value) for d in await peer.store.desired(after=known.number)] == [("pool:b", None)]


async def test_all_that_was_ever_wanted_is_the_audit_trail(peer: Peer) -> None:
    for value in ("1", "2", None):
        await peer.store.desire("pool:a", value, "ann")
    assert [d.value for d in await peer.store.desired(every=True)] == ["1", "2", None]
    assert [d.value for d in await peer.store.desired(every=True, limit=2)] == ["2", None]


async def test_a_paused_queue_lends_nothing_and_others_go_on(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "q", "other")
    await pause(peer, "q")
    await send(peer, to("q", "waits"), to("other", "goes"))
    async with peer.broker.consume(["q", "other"], prefetch=10) as consumer:
        delivery = await one(consumer)
        assert names([delivery]) == ["goes"]
        await ack(consumer, delivery)
        await nothing(engine, consumer)
    assert (await peer.broker.depth("q")).ready == 1


async def test_a_consumer_that_waits_is_served_when_its_queue_is_resumed(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "q")
    await pause(peer, "q")
    await send(peer, to("q", "waits"))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        await nothing(engine, consumer)
        await pause(await engine.connect(), "q", None)
        await ack(consumer, await one(consumer))


async def test_what_runs_when_its_queue_is_paused_ends_and_what_comes_back_waits(engine: EngineUnderTest, peer: Peer) -> None:
    if not engine.pauses_at_once:
        pytest.skip("plain messages of this engine are lent for up to a second after their queue was paused")
    await declare(peer, "q")
    await send(peer, to("q", "runs"), to("q", "comes back"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        running = await one(consumer)
        await pause(peer, "q")
        await ack(consumer, running)
        await nothing(engine, consumer)
    await pause(peer, "q", None)
    assert await drain(engine, peer, "q") == ["comes back"]


async def test_only_a_declared_queue_can_be_paused(peer: Peer) -> None:
    with pytest.raises((NotFound, Rejected)):
        await peer.store.desire("queue:missing", PAUSED, "ann")
    assert await peer.store.desired() == []


@pytest.mark.restarts
async def test_a_paused_queue_is_paused_after_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "q")
    await pause(peer, "q")
    await send(peer, to("q"))
    await engine.restart()
    peer = await engine.connect()
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await nothing(engine, consumer)
    assert [(d.what, d.value) for d in await peer.store.desired()] == [("queue:q", PAUSED)]


async def test_a_process_tells_what_others_see_of_it(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.store.tell({"pools": {"import": 3}})
    overview = await (await engine.connect()).store.overview()
    assert {"import": 3} in [client.info.get("pools") for client in overview.clients]


async def test_the_overview_says_how_long_the_next_message_has_waited_and_which_queues_are_paused(
    engine: EngineUnderTest, peer: Peer
) -> None:
    await declare(peer, "q", "empty")
    await pause(peer, "q")
    await send(peer, to("q", id=new_id()), to("q", id=new_id()))
    found = {q.name: q for q in (await peer.store.overview()).queues}
    assert (found["q"].paused, found["empty"].paused) == (True, False)
    assert (found["q"].oldest or 0.0) >= 0.0
    assert found["empty"].oldest is None


async def test_a_delayed_message_waits_since_it_was_due(engine: EngineUnderTest, peer: Peer) -> None:
    if not engine.moves_time:
        pytest.skip("the time of this engine cannot be moved")
    await declare(peer, "q")
    await send(peer, to("q", id=new_id(), delay=3600.0))
    await engine.advance(3605.0)
    assert (await peer.broker.depth("q")).ready == 1
    (queue,) = (await peer.store.overview()).queues
    assert queue.oldest is not None
    assert 4.0 < queue.oldest < 3600.0


async def totals(peer: Peer) -> dict[str, tuple[int | None, ...]]:
    """Return of each queue what was published, done, retried and dead, or skip where that is not counted."""
    queues = (await peer.store.overview()).queues
    if any(queue.published is None for queue in queues):
        pytest.skip("RabbitMQ does not count what became of its messages")
    return {q.name: (q.published, q.done, q.retried, q.died) for q in queues}


@pytest.mark.parametrize("subscribers", [1, 2])
async def test_h8_each_subscriber_is_delivered_all_that_was_published(engine: EngineUnderTest, peer: Peer, subscribers: int) -> None:
    names = [f"subscriber-{number}" for number in range(subscribers)]
    queues = tuple(bind(name, Binding("events", "#")) for name in names)
    await peer.broker.declare(Topology((Exchange("events", "topic"),), queues))
    await totals(peer)
    await send(peer, *[event("events", "raised", str(number)) for number in range(7)])
    await send(peer, event("events", "raised", "alone"))
    await drain(engine, peer, *names)
    assert await totals(peer) == dict.fromkeys(names, (8, 8, 0, 0))


async def test_it_is_counted_what_becomes_of_all_that_there_ever_was(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "q", "empty")
    await totals(peer)
    await send(peer, to("q", "a"), to("q", "b", delay=3600.0), to("q", "c", key="k"), to("q", "d", tracked=True))
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        a, c, d = await gather(consumer, 3)
        await settle(consumer, Retry(a.tag, 0.0, error="failed"), Ack(c.tag), Dead(d.tag, "no"))
        again = await one(consumer)
        await settle(consumer, Retry(again.tag, 0.0, counted=False))
        await ack(consumer, await one(consumer))
    await send(peer, to("q", "e", key="m", merges=True))
    assert await totals(peer) == {"q": (5, 2, 1, 1), "empty": (0, 0, 0, 0)}
