"""What was published on an archiving exchange, again: in order and without a gap."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from chappe.engines.contract.archive import Record
from chappe.engines.contract.broker import Ack
from chappe.errors import BrokerUnavailable, Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import drain, event, eventually, one, send, settle, to


@pytest.fixture(autouse=True)
async def topology(peer: Peer) -> None:
    exchanges = (Exchange("kept", archive=3600.0), Exchange("also", "fanout", archive=3600.0), Exchange("plain", "fanout"))
    await peer.broker.declare(Topology(exchanges, (bind("q", "kept:taken.#", "plain:"),)))


def shown(records: list[Record]) -> list[str]:
    return [r.envelope.body.decode() for r in records]


async def archived_becomes(peer: Peer, *names: str) -> None:
    """Expect this in the archive, where what is kept for an exchange is archived a moment later."""

    async def look() -> list[str]:
        return shown((await peer.store.archived(0, 10)).records)

    await eventually(look, list(names))


def gap_free(records: list[Record]) -> bool:
    return [r.seq for r in records] == list(range(records[0].seq, records[0].seq + len(records)))


async def test_the_archive_is_empty_at_first(peer: Peer) -> None:
    assert (await peer.store.archived(0, 10)).records == []


async def test_a_record_tells_when_where_and_what(engine: EngineUnderTest, peer: Peer) -> None:
    before = engine.now()
    await send(peer, sent := event("kept", "taken.x"))
    (record,) = (await peer.store.archived(0, 10)).records
    assert (record.exchange, record.routing_key, record.envelope) == ("kept", "taken.x", sent.envelope)
    assert before <= record.at <= engine.now()
    assert record.seq > 0


async def test_records_are_in_the_order_of_publishing_without_a_gap(peer: Peer) -> None:
    for start in range(0, 30, 10):
        await send(peer, *[event(("kept", "also")[n % 2], "taken.x", str(n)) for n in range(start, start + 10)])
    records = (await peer.store.archived(0, 100)).records
    assert shown(records) == [str(n) for n in range(30)]
    assert gap_free(records)


async def test_what_is_published_at_once_leaves_no_gap(engine: EngineUnderTest, peer: Peer) -> None:
    async def publish(number: int) -> None:
        sender = await engine.connect()
        for n in range(10):
            await send(sender, event("kept", "x", f"{number}.{n}"))

    await asyncio.gather(*[publish(n) for n in range(5)])
    records = (await peer.store.archived(0, 100)).records
    assert len(records) == 50
    assert gap_free(records)
    for number in range(5):
        assert [b for b in shown(records) if b.startswith(f"{number}.")] == [f"{number}.{n}" for n in range(10)]


async def test_what_is_published_at_once_may_be_much(peer: Peer) -> None:
    await send(peer, event("kept", "taken.x"))  # by now it is known who takes it
    many = 30_000  # a step for each pair of them would take longer than the deadline
    await send(peer, *[event("kept", "taken.x", str(n)) for n in range(many)])

    async def archived() -> bool:
        return len((await peer.store.archived(many - 1, 10)).records) == 2

    await eventually(archived, True)
    assert (await peer.broker.depth("q")).ready == many + 1


async def test_only_archiving_exchanges_are_archived(peer: Peer) -> None:
    await send(peer, event("plain", "x", "plain"), to("q", "default"), event("kept", "taken.x", "kept"))
    assert shown((await peer.store.archived(0, 10)).records) == ["kept"]


async def test_an_event_is_archived_once_whether_nobody_one_or_many_take_it(peer: Peer) -> None:
    await peer.broker.declare(Topology((), (bind("r", "kept:taken.x"),)))
    await send(peer, event("kept", "nobody", "0"), event("kept", "taken.y", "1"), event("kept", "taken.x", "2"))
    assert shown((await peer.store.archived(0, 10)).records) == ["0", "1", "2"]


async def test_a_reader_goes_on_after_what_it_has_seen(peer: Peer) -> None:
    await send(peer, *[event("kept", "x", str(n)) for n in range(10)])
    seen: list[Record] = []
    while page := (await peer.store.archived(seen[-1].seq if seen else 0, 3)).records:
        assert len(page) <= 3
        seen += page
    assert shown(seen) == [str(n) for n in range(10)]
    await send(peer, event("kept", "x", "new"))
    assert shown((await peer.store.archived(seen[-1].seq, 3)).records) == ["new"]


async def test_what_was_published_together_is_read_from_any_position_in_pages_of_any_size(peer: Peer) -> None:
    exchanges = ["kept"] * 150 + ["also", "plain", "kept"] * 10 + ["kept"] * 100
    bodies = [f"{n} " + "x" * (40_000 if n in (140, 240, 241) else 10) for n in range(len(exchanges))]
    await send(peer, *[event(to, "taken.x", body, id=str(n)) for n, (to, body) in enumerate(zip(exchanges, bodies, strict=True))])
    wanted = [(exchange, body) for exchange, body in zip(exchanges, bodies, strict=True) if exchange != "plain"]

    async def archived() -> int:
        return (await peer.store.archived(0, 1)).end

    await eventually(archived, len(wanted))
    for after, limit in ((0, 7), (100, 1000), (149, 1), (128, 128), (255, 20)):
        seen: list[Record] = []
        position = after
        while (page := await peer.store.archived(position, limit)).records:
            assert (len(page.records) <= limit, page.lost) == (True, 0)
            seen += page.records
            position = page.cursor
        assert position == len(wanted)
        assert [(r.seq, r.exchange, r.envelope.body.decode()) for r in seen] == [
            (n, *wanted[n - 1]) for n in range(after + 1, len(wanted) + 1)
        ]


@pytest.mark.parametrize(
    ("pattern", "wanted"), [("#", "0123"), ("a.*", "01"), ("a.#", "013"), ("*.c", "12"), ("b.c", "2"), ("nothing", "")]
)
async def test_a_pattern_chooses_by_routing_key(peer: Peer, pattern: str, wanted: str) -> None:
    await send(peer, *[event("kept", key, str(n)) for n, key in enumerate(("a.b", "a.c", "b.c", "a.b.c"))])
    assert "".join(shown((await peer.store.archived(0, 10, pattern=pattern)).records)) == wanted


async def test_a_pattern_finds_what_is_far_behind_the_limit(peer: Peer) -> None:
    await send(
        peer,
        *[event("kept", "noise", "n") for _ in range(50)],
        event("kept", "wanted.1", "1"),
        event("kept", "noise"),
        event("kept", "wanted.2", "2"),
    )
    (first,) = (await peer.store.archived(0, 1, pattern="wanted.*")).records
    assert shown([first, *(await peer.store.archived(first.seq, 1, pattern="wanted.*")).records]) == ["1", "2"]


async def test_what_was_not_published_leaves_no_gap(peer: Peer) -> None:
    await send(peer, event("kept", "x", "1", unique="u"))
    await archived_becomes(peer, "1")
    with pytest.raises(Unroutable):
        await peer.broker.publish([event("kept", "x", "never"), to("missing")])
    assert [r.outcome for r in await peer.broker.publish([event("kept", "x", "double", unique="u")])] == ["duplicate"]
    await send(peer, event("kept", "x", "2"))
    records = (await peer.store.archived(0, 10)).records
    assert shown(records) == ["1", "2"]
    assert gap_free(records)


async def test_what_an_ack_publishes_is_archived_and_what_a_refused_one_publishes_is_not(peer: Peer) -> None:
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        await consumer.settle([Ack(delivery.tag, (event("kept", "x", "never"), to("missing")))])
        await settle(consumer, Ack(delivery.tag, (event("kept", "x", "then"),)))
    assert shown((await peer.store.archived(0, 10)).records) == ["then"]


async def test_what_a_schedule_and_a_mark_publish_is_archived(peer: Peer) -> None:
    await peer.store.fire("s", 1.0, [event("kept", "x", "fired")])
    await peer.store.mark("1", "h", [event("kept", "x", "marked")])
    await archived_becomes(peer, "fired", "marked")


async def test_taking_and_purging_leave_the_archive_as_it_is(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, event("kept", "taken.x", "1"), event("kept", "taken.x", "2"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag))
    await peer.broker.purge("q")
    assert shown((await peer.store.archived(0, 10)).records) == ["1", "2"]
    assert await drain(engine, peer, "q") == []


@pytest.mark.restarts
async def test_the_archive_goes_on_without_a_gap_after_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    """Row H14: what keeps the events may end, and loses none."""
    await send(peer, *[event("kept", "x", str(n)) for n in range(3)])
    await engine.restart()
    peer = await engine.connect()
    await send(peer, event("kept", "x", "3"))
    records = (await peer.store.archived(0, 10)).records
    assert shown(records) == ["0", "1", "2", "3"]
    assert gap_free(records)


async def test_m4_a_page_in_which_nothing_fits_moves_on_all_the_same(peer: Peer) -> None:
    await send(peer, *[event("kept", "noise") for _ in range(7)])
    page = await peer.store.archived(2, 10, pattern="wanted.*")
    assert (page.records, page.cursor, page.end, page.lost) == ([], 7, 7, 0)
    assert (await peer.store.archived(7, 10, pattern="wanted.*")).cursor == 7


async def test_m4_the_cursor_stops_where_the_limit_was_reached(peer: Peer) -> None:
    await send(peer, *[event("kept", key, key) for key in ("a.1", "b.1", "a.2", "b.2", "a.3")])
    page = await peer.store.archived(0, 2, pattern="a.*")
    assert (shown(page.records), page.end) == (["a.1", "a.2"], 5)
    assert shown((await peer.store.archived(page.cursor, 2, pattern="a.*")).records) == ["a.3"]
    assert (await peer.store.archived(0, 0)).end == 5


async def test_m4_a_position_of_another_archive_is_told_by_a_smaller_cursor(peer: Peer) -> None:
    await send(peer, event("kept", "x"))
    page = await peer.store.archived(1000, 10)
    assert (page.records, page.cursor, page.end) == ([], 1, 1)


async def test_d12_whoever_waits_at_the_end_is_answered_by_the_next_event(peer: Peer, engine: EngineUnderTest) -> None:
    await send(peer, event("kept", "x", "old"))
    other = await engine.connect()
    waiting = [asyncio.ensure_future(peer.store.archived(1, 10, pattern=pattern, wait=600.0)) for pattern in ("#", "x", "y")]
    await asyncio.sleep(engine.quiet)
    assert not any(task.done() for task in waiting)
    await send(other, event("kept", "x", "new"))
    pages = [await asyncio.wait_for(task, 60.0) for task in waiting]
    assert [shown(page.records) for page in pages] == [["new"], ["new"], []]
    assert {page.cursor for page in pages} == {2}


async def test_d12_no_event_is_missed_between_two_waits(peer: Peer, engine: EngineUnderTest) -> None:
    await send(peer, event("kept", "x", "0"))
    other, seen, cursor = await engine.connect(), [], 1
    publishing = asyncio.ensure_future(_publish_one_by_one(other, 50))
    while len(seen) < 50:
        page = await asyncio.wait_for(peer.store.archived(cursor, 100, wait=600.0), 60.0)
        seen, cursor = seen + shown(page.records), page.cursor
    await publishing
    assert seen == [str(n) for n in range(50)]


async def _publish_one_by_one(peer: Peer, count: int) -> None:
    for n in range(count):
        await send(peer, event("kept", "x", str(n)))


async def test_a_wait_for_the_archive_ends_without_an_event(peer: Peer) -> None:
    await send(peer, event("kept", "x"))
    page = await peer.store.archived(1, 10, wait=0.05)
    assert (page.records, page.cursor, page.lost) == ([], 1, 0)


@pytest.mark.disconnects
async def test_h11_a_wait_for_the_archive_outlives_a_lost_connection(peer: Peer, engine: EngineUnderTest) -> None:
    await send(peer, event("kept", "x", "old"))
    waiting = asyncio.ensure_future(_next_records(peer))
    await asyncio.sleep(engine.quiet)
    async with peer.cut():
        await send(await engine.connect(), event("kept", "x", "while cut"))
    assert shown(await asyncio.wait_for(waiting, 60.0)) == ["while cut"]


async def _next_records(peer: Peer) -> list[Record]:
    while True:
        with contextlib.suppress(BrokerUnavailable):
            if records := (await peer.store.archived(1, 10, wait=600.0)).records:
                return records
        await asyncio.sleep(0.01)


async def test_h10_the_position_of_a_follower_is_kept_until_it_is_forgotten(peer: Peer) -> None:
    assert dict(await peer.store.followers()) == {}
    await peer.store.keep_position("a", 0)
    await peer.store.keep_position("b", 5)
    await peer.store.keep_position("a", 7)
    assert dict(await peer.store.followers()) == {"a": 7, "b": 5}
    await peer.store.keep_position("b", None)
    await peer.store.keep_position("b", None)
    assert dict(await peer.store.followers()) == {"a": 7}


@pytest.mark.restarts
async def test_h10_the_position_of_a_follower_outlives_a_restart(peer: Peer, engine: EngineUnderTest) -> None:
    await peer.store.keep_position("a", 7)
    await engine.restart()
    peer = await engine.connect()
    assert dict(await peer.store.followers()) == {"a": 7}
