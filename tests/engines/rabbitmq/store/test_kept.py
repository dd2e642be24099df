"""Copies and their tickets in PostgreSQL, where answers are lost, come late, or come twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from chappe.engines.rabbitmq.outbox import Ending, Lent, Presented, Ticket, mark_of
from chappe.engines.rabbitmq.store.kept import Kept
from chappe.engines.rabbitmq.store.store import PostgresStore
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from ....servers.shared import Database


@pytest.fixture
async def store(postgres: Database) -> AsyncIterator[PostgresStore]:
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
        await connection.execute("drop schema if exists chappe_rabbitmq cascade")
    store = PostgresStore(postgres.url)
    await store.kept.declare(Topology(queues=(bind("q"), bind("r"))))
    yield store
    await store.close()


@pytest.fixture
def kept(store: PostgresStore) -> Kept:
    return store.kept


def to(queue: str, name: str, *, priority: int = 0, delay: float = 0.0, **options: Any) -> Publication:
    return Publication(
        Envelope(name, "t", name.encode()), queue, "", priority, delay, Options(**options) if options else Options(tracked=True)
    )


async def publish(kept: Kept, *publications: Publication) -> list[Ticket]:
    receipts, tickets = await kept.publish(publications)
    assert {receipt.outcome for receipt in receipts} == {"stored"}
    return tickets


async def confirm(kept: Kept, *tickets: Ticket) -> None:
    await kept.confirm([(ticket.number, ticket.sending) for ticket in tickets])


async def present(kept: Kept, ticket: Ticket, text: str = "") -> Lent | None:
    sign = (ticket.priority > 0) - (ticket.priority < 0)
    (lent,) = await kept.present("q", sign, [Presented(ticket.number, text or f"{ticket.number}:{ticket.sending}")])
    return lent


async def settle(kept: Kept, lent: Lent, kind: str = "ack", **fields: Any) -> str:
    (ended,), _ = await kept.settle([Ending("q", lent.attempt, lent.envelope, lent, kind, **fields)])
    return ended.why


@pytest.mark.parametrize("priority", [0, 5])
async def test_a_ticket_whose_answer_was_lost_lends_its_copy_again(kept: Kept, priority: int) -> None:
    (ticket,) = await publish(kept, to("q", "a", priority=priority, key="k"))
    lost = await present(kept, ticket)
    again = await present(kept, ticket)
    assert lost is not None and again is not None and again.envelope.id == "a"
    assert await settle(kept, lost) == "stale", "the first loan is nobody's"
    assert await settle(kept, again) == ""


async def test_a_ticket_of_another_sending_lends_nothing_that_runs(kept: Kept) -> None:
    (ticket,) = await publish(kept, to("q", "a"))
    lent = await present(kept, ticket)
    assert lent is not None
    assert await present(kept, ticket, f"{ticket.number}:again") is None
    assert await settle(kept, lent) == ""


async def test_a_loss_that_is_heard_late_takes_nothing_from_the_next_loan(kept: Kept) -> None:
    (ticket,) = await publish(kept, to("q", "a", key="k"))
    first = await present(kept, ticket)
    second = await present(kept, ticket)
    assert first is not None and second is not None
    await kept.lose([first])
    assert (await kept.counts(["q"]))["q"].running == 1
    assert await settle(kept, second) == ""


async def test_what_is_confirmed_of_one_sending_says_nothing_of_the_next(kept: Kept, store: PostgresStore) -> None:
    (ticket,) = await publish(kept, to("q", "a"))
    lent = await present(kept, ticket)
    assert lent is not None
    assert await settle(kept, lent, "retry", after=0.001) == ""
    promoted: list[Ticket] = []
    while not promoted:
        promoted, _ = await kept.promote()
    await confirm(kept, ticket)  # late
    assert await unsent(store) == [ticket.number]
    await confirm(kept, *promoted)
    assert await unsent(store) == []


async def test_in_a_lane_nothing_is_lent_whose_ticket_is_not_known_to_be_there(kept: Kept) -> None:
    (never_sent,) = await publish(kept, to("q", "a", priority=5))
    (sent,) = await publish(kept, to("q", "b", priority=5))
    await confirm(kept, sent)
    lent = await present(kept, sent)
    assert lent is not None and lent.envelope.id == "b", "else its ticket would be spent, and nobody would ever send one for it"
    await confirm(kept, never_sent)
    late = await present(kept, never_sent)
    assert late is not None and late.envelope.id == "a"


async def test_in_a_lane_any_ticket_lends_the_first_in_order(kept: Kept) -> None:
    low, high = await publish(kept, to("q", "low", priority=1), to("q", "high", priority=9))
    await confirm(kept, low, high)
    assert [lent.envelope.id for ticket in (low, high) if (lent := await present(kept, ticket)) is not None] == ["high", "low"]


async def test_after_a_purge_what_was_published_meanwhile_is_given_a_ticket_again(kept: Kept, store: PostgresStore) -> None:
    (ticket,) = await publish(kept, to("q", "meanwhile"))
    await confirm(kept, ticket)
    await kept.reticket("q")
    (again,) = await kept.unsent()
    assert (again.number, again.sending) == (ticket.number, ticket.sending + 1)


async def test_a_letter_that_is_retried_has_no_deaths_any_more(kept: Kept, store: PostgresStore) -> None:
    (ticket,) = await publish(kept, to("q", "a"))
    lent = await present(kept, ticket)
    assert lent is not None
    mark = mark_of("q", "a")
    for _ in range(3):
        await kept.blame([mark])
    assert await kept.deaths([mark]) == {mark: 3}
    assert await settle(kept, lent, "dead", reason="worker_lost", deaths=3) == ""
    assert await kept.deaths([mark]) == {}


async def test_who_settles_and_who_presents_the_same_keys_do_not_wait_for_each_other_in_a_ring(kept: Kept, postgres: Database) -> None:
    other = PostgresStore(postgres.url)
    keys = "abcdefgh"
    try:
        for n in range(15):
            tickets = await publish(kept, *(to("q", f"{n}.{key}.{turn}", key=f"{n}.{key}") for turn in "12" for key in keys))
            mine = [lent for ticket in tickets[: len(keys)] if (lent := await present(kept, ticket)) is not None]
            assert len(mine) == len(keys)
            await asyncio.gather(
                kept.settle([Ending("q", 1, lent.envelope, lent) for lent in reversed(mine)]),
                other.kept.present("q", 0, [Presented(ticket.number, f"{ticket.number}:0") for ticket in tickets[len(keys) :]]),
            )
    finally:
        await other.close()


async def test_the_schema_may_be_made_by_many_at_once(postgres: Database) -> None:
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
        await connection.execute("drop schema if exists chappe_rabbitmq cascade")
    stores = [PostgresStore(postgres.url) for _ in range(8)]
    try:
        await asyncio.gather(*(store.kept.declare(Topology(queues=(bind("q"),))) for store in stores))
        assert [await store.kept.lanes("q") for store in stores] == [0] * 8
    finally:
        await asyncio.gather(*(store.close() for store in stores))


async def unsent(store: PostgresStore) -> list[int]:
    async with await psycopg.AsyncConnection.connect(store.database.url) as connection:
        rows = await connection.execute("select number from chappe_rabbitmq.message where state = 1 and not sent")
        return [int(row[0]) for row in await rows.fetchall()]
