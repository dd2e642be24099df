"""Claims begin at a floor, and nothing that appears below it is lost."""

# A server that goes away between two queues is made from inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import psycopg
import pytest

from chappe.engines.contract.broker import Ack, Delivery, Depth, Retry
from chappe.engines.postgres import claims
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.claims import LOWEST, Floors
from chappe.engines.postgres.routes import Known
from chappe.engines.postgres.rows import encode
from chappe.errors import BrokerUnavailable
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind


@pytest.fixture(autouse=True)
def floors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every claim begin where the one before began."""
    monkeypatch.setattr(claims, "_DEEP", 0)
    monkeypatch.setattr(claims, "_LOOK_AGAIN", 3600.0)


async def send(broker: PostgresBroker, *names: str, priority: int = 0) -> None:
    await broker.publish([Publication(Envelope(name, "t", b"{}"), "q", priority=priority) for name in names])


def numbered(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


async def test_a_transaction_that_commits_late_is_seen_though_its_place_is_below_the_floor(url: str, broker: PostgresBroker) -> None:
    late = await psycopg.AsyncConnection.connect(url)
    insert = "insert into chappe.message (queue, rank, message_id, envelope) select id, 0, 'late', %s from chappe.queue where name = 'q'"
    await late.execute(insert, (encode(Envelope("late", "t", b"{}")),))
    await send(broker, *numbered(0, 40))
    async with broker.consume(["q"], prefetch=100) as consumer:
        for _ in range(3):  # full claims, so that there is a floor
            await consumer.settle([Ack(d.tag) for d in await consumer.receive(10, 10.0)])
        await late.commit()
        await late.close()
        seen: list[str] = []
        while len(seen) < 11:
            got = await consumer.receive(10, 10.0)
            seen += [d.envelope.id for d in got]
            await consumer.settle([Ack(d.tag) for d in got])
    assert sorted(seen) == sorted([*numbered(30, 40), "late"])
    assert await broker.depth("q") == Depth()


async def test_a_larger_priority_that_comes_while_a_backlog_is_worked_off_is_next(broker: PostgresBroker) -> None:
    await send(broker, *numbered(0, 40))
    async with broker.consume(["q"], prefetch=100) as consumer:
        for _ in range(2):
            await consumer.settle([Ack(d.tag) for d in await consumer.receive(10, 10.0)])
        await send(broker, "urgent", priority=5)
        got = await consumer.receive(10, 10.0)
        assert [d.envelope.id for d in got] == ["urgent", *numbered(20, 29)]
        await consumer.settle([Ack(d.tag) for d in got])
        left = await consumer.receive(100, 10.0)
        await consumer.settle([Ack(d.tag) for d in left])
    assert [d.envelope.id for d in left] == numbered(29, 40)


async def test_what_another_consumer_gives_back_below_the_floor_is_not_lost(url: str, broker: PostgresBroker) -> None:
    await send(broker, *numbered(0, 40))
    other = PostgresBroker(url, deadline=60.0)
    async with other.consume(["q"], prefetch=5) as theirs, broker.consume(["q"], prefetch=100) as consumer:
        held = await theirs.receive(5, 10.0)
        for _ in range(2):
            await consumer.settle([Ack(d.tag) for d in await consumer.receive(10, 10.0)])
        await theirs.settle([Retry(d.tag, 0.0, counted=False) for d in held])
        seen: list[str] = []
        while len(seen) < 20:
            got = await consumer.receive(100, 10.0)
            seen += [d.envelope.id for d in got]
            await consumer.settle([Ack(d.tag) for d in got])
    await other.close()
    assert sorted(seen, key=int) == [*numbered(0, 5), *numbered(25, 40)]


async def test_a_transaction_that_somebody_keeps_open_hides_nothing(url: str, broker: PostgresBroker) -> None:
    await send(broker, *numbered(0, 200))
    async with await psycopg.AsyncConnection.connect(url) as held, broker.consume(["q"], prefetch=100) as consumer:
        await held.execute("set transaction isolation level repeatable read")
        await held.execute("select count(*) from chappe.message")
        seen: list[str] = []
        while len(seen) < 200:
            got = await consumer.receive(10, 10.0)
            seen += [d.envelope.id for d in got]
            await consumer.settle([Ack(d.tag) for d in got])
    assert seen == numbered(0, 200)


def test_a_floor_begins_where_the_last_full_claim_began_and_goes_after_a_second_or_a_short_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_DEEP", 2)
    monkeypatch.setattr(claims, "_LOOK_AGAIN", 1.0)
    now = 0.0
    floors = Floors(lambda: now)

    def claimed(*places: int, limit: int = 2) -> None:
        floors.claimed(7, [(place, 0) for place in places], limit)

    assert floors.of(7) == (LOWEST, 0)
    claimed(1, 2)
    assert floors.of(7) == (LOWEST, 0), "a shallow queue needs none"
    claimed(3, 4)
    assert floors.of(7) == (0, 2)
    now = 1.1
    claimed(5, 6)
    assert floors.of(7) == (LOWEST, 0)
    claimed(3, 7)
    assert floors.of(7) == (0, 2), "one claim looked from the start: each walks over all that others keep dead there"
    claimed(8, 9)
    assert floors.of(7) == (0, 7)
    claimed(10)
    assert floors.of(7) == (LOWEST, 0)


async def test_what_one_queue_gave_is_not_lost_when_the_next_one_cannot_be_asked(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.declare(Topology(queues=(bind("r"),)))
    await broker.publish([Publication(Envelope(queue, "t", b"{}"), queue) for queue in "qr"])
    async with broker.consume(["q", "r"], prefetch=10) as consumer:
        claim, asked = consumer._claim_of, list[str]()

        async def first_only(known: Known, limit: int, session: int, most: int) -> list[Delivery]:
            asked.append(known.queue.name)
            if len(asked) > 1:
                raise BrokerUnavailable("away")
            return await claim(known, limit, session, most)

        monkeypatch.setattr(consumer, "_claim_of", first_only)
        assert [d.queue for d in await consumer.receive(10, 30.0)] == asked[:1]
        assert len(asked) == 2


async def test_what_others_took_over_while_it_was_claimed_is_given_to_nobody_twice(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(broker, "m")
    async with broker.consume(["q"], prefetch=10) as consumer:
        claim = consumer._claim_of

        async def loses(known: Known, limit: int, session: int, most: int) -> list[Delivery]:
            found = await claim(known, limit, session, most)
            consumer._entered(set())
            return found

        monkeypatch.setattr(consumer, "_claim_of", loses)
        (delivery,) = await consumer.receive(10, 30.0)
        assert not consumer.holds(delivery.tag)
