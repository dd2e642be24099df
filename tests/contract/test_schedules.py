"""Each slot of a schedule is fired once, whatever the number of schedulers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from chappe.engines.contract.broker import Depth
from chappe.errors import Unroutable
from chappe.messages.envelope import Publication, Receipt

from .engine import EngineUnderTest, Peer
from .scenes import declare, drain, send, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q")


async def test_a_slot_is_fired_once(engine: EngineUnderTest, peer: Peer) -> None:
    assert await peer.store.fire("s", 100.0, [to("q", "a"), to("q", "b")]) is True
    assert await peer.store.fire("s", 100.0, [to("q", "again")]) is False
    assert await drain(engine, peer, "q") == ["a", "b"]


async def test_an_older_slot_than_the_last_is_not_fired(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.store.fire("s", 100.0, [to("q", "a")])
    assert await peer.store.fire("s", 99.5, [to("q", "older")]) is False
    assert await peer.store.last_fired("s") == 100.0
    assert await drain(engine, peer, "q") == ["a"]


async def test_newer_slots_are_fired_one_after_the_other(engine: EngineUnderTest, peer: Peer) -> None:
    for slot in (1.0, 2.0, 60.0):
        assert await peer.store.fire("s", slot, [to("q", str(slot))])
        assert await peer.store.last_fired("s") == slot
    assert await drain(engine, peer, "q") == ["1.0", "2.0", "60.0"]


async def test_schedules_are_independent(peer: Peer) -> None:
    await peer.store.fire("s", 100.0, [to("q")])
    assert await peer.store.last_fired("t") is None
    assert await peer.store.fire("t", 1.0, [to("q")])
    assert (await peer.store.last_fired("s"), await peer.store.last_fired("t")) == (100.0, 1.0)


async def test_a_slot_may_be_remembered_without_messages(peer: Peer) -> None:
    assert await peer.store.fire("s", 100.0, []) is True
    assert await peer.store.last_fired("s") == 100.0
    assert await peer.store.fire("s", 100.0, [to("q")]) is False
    assert await peer.broker.depth("q") == Depth()


async def test_a_new_schedule_counts_from_when_it_began_whoever_says_it_again(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.store.begin_schedules("app", {"s": "hourly"}, 9.0)
    await peer.store.begin_schedules("app", {"s": "hourly"}, 11.0)
    assert await peer.store.last_fired("s") == 9.0
    assert await peer.store.fire("s", 10.0, [to("q", "the first slot")]) is True
    assert await drain(engine, peer, "q") == ["the first slot"]


async def test_a_changed_definition_counts_from_when_it_changed(peer: Peer) -> None:
    await peer.store.begin_schedules("app", {"s": "hourly", "t": "hourly"}, 100.0)
    await peer.store.begin_schedules("app", {"s": "daily", "t": "hourly"}, 500.0)
    assert (await peer.store.last_fired("s"), await peer.store.last_fired("t")) == (500.0, 100.0)
    await peer.store.begin_schedules("app", {"s": "daily", "t": "hourly"}, 900.0)
    assert (await peer.store.last_fired("s"), await peer.store.last_fired("t")) == (500.0, 100.0)


async def test_a_schedule_that_was_left_out_counts_anew_when_it_is_back(peer: Peer) -> None:
    await peer.store.begin_schedules("app", {"s": "hourly"}, 100.0)
    await peer.store.begin_schedules("other", {"t": "hourly"}, 200.0)
    await peer.store.begin_schedules("app", {"s": "hourly"}, 300.0)
    assert await peer.store.last_fired("s") == 100.0, "of another application"
    await peer.store.begin_schedules("app", {}, 400.0)
    await peer.store.begin_schedules("app", {"s": "hourly"}, 500.0)
    assert await peer.store.last_fired("s") == 500.0


async def test_a_change_repeats_no_slot_that_a_clock_a_little_ahead_has_fired(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.store.begin_schedules("app", {"s": "hourly"}, 100.0)
    await peer.store.fire("s", 1030.0, [to("q", "a")])
    await peer.store.begin_schedules("app", {"s": "daily"}, 1000.0)
    assert await peer.store.fire("s", 1030.0, [to("q", "again")]) is False
    assert await drain(engine, peer, "q") == ["a"]


async def test_a_change_does_not_wait_for_a_clock_that_was_set_back(peer: Peer) -> None:
    await peer.store.begin_schedules("app", {"s": "hourly"}, 100_000.0)
    await peer.store.begin_schedules("app", {"s": "daily"}, 1000.0)
    assert await peer.store.last_fired("s") == 1000.0


async def test_a_slot_whose_message_is_unroutable_is_not_fired(engine: EngineUnderTest, peer: Peer) -> None:
    with pytest.raises(Unroutable):
        await peer.store.fire("s", 100.0, [to("q", "a"), to("missing")])
    assert await peer.store.last_fired("s") is None
    assert await peer.store.fire("s", 100.0, [to("q", "b")])
    assert await drain(engine, peer, "q") == ["b"]


async def test_many_schedulers_at_once_fire_a_slot_once(engine: EngineUnderTest, peer: Peer) -> None:
    peers = [await engine.connect() for _ in range(5)]
    fired = await asyncio.gather(*[p.store.fire("s", 100.0, [to("q")]) for p in peers])
    assert sorted(fired) == [False] * 4 + [True]
    assert await peer.broker.depth("q") == Depth(ready=1)


@pytest.mark.restarts
async def test_what_was_fired_is_remembered_over_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.store.fire("s", 100.0, [to("q", "a")])
    await engine.restart()
    peer = await engine.connect()
    assert await peer.store.last_fired("s") == 100.0
    assert await peer.store.fire("s", 100.0, [to("q", "again")]) is False
    assert await drain(engine, peer, "q") == ["a"]


async def test_a_merging_message_is_merged_before_its_slot_counts_as_fired(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", key="k", merges=True))
    original = to("q", "b", key="k", merges=True)
    assert await peer.store.fire("s", 100.0, [original]) is False
    assert await peer.store.last_fired("s") is None

    def merge(tried: Sequence[Publication], receipts: Sequence[Receipt]) -> Sequence[Publication]:
        (receipt,) = receipts
        assert receipt.pending is not None
        return [to("q", "a+b", id=receipt.pending.id, key="k", merges=True, replaces=receipt.version)]

    assert await peer.store.fire("s", 100.0, [original], merge) is True
    assert await drain(engine, peer, "q") == ["a+b"]
