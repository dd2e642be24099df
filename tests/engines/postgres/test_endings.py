"""What is too much for one transaction is cut, is given more time, or ends visibly; it is never repeated without bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from chappe.engines.contract.broker import Ack, Dead, Depth
from chappe.engines.postgres import endings
from chappe.engines.postgres.broker import PostgresBroker
from chappe.errors import Rejected
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind

from ...servers import shared

COUNT = 250
# So many that are stored together take longer than the deadline of 2 s.
SLOW = """
    create function chappe.slowly() returns trigger language plpgsql as
    'begin if (select count(*) from fresh) >= 200 then perform pg_sleep(2.5); end if; return null; end';
    create trigger slowly after insert on chappe.message referencing new table as fresh for each statement execute function chappe.slowly();
"""


def slow() -> tuple[Publication, ...]:
    return tuple(Publication(Envelope(str(n), "t", b"{}"), "slow") for n in range(COUNT))


@pytest.fixture
async def broker(shared_servers: tuple[Path, int]) -> AsyncIterator[PostgresBroker]:
    url = shared.database(*shared_servers).url
    made = PostgresBroker(url, deadline=2.0)
    await made.declare(Topology(queues=(bind("work"), bind("slow"))))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(SLOW)
    await made.publish([Publication(Envelope(name, "t", b"{}"), "work") for name in "ab"])
    yield made
    await made.close()


async def test_what_one_message_publishes_has_time_for_as_much_as_it_is(broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_THEN_AT_ONCE", 5)
    async with broker.consume(["work"], prefetch=10) as consumer:
        first, second = await consumer.receive(2, 30.0)
        assert await consumer.settle([Ack(first.tag, slow()), Ack(second.tag)]) == []
    assert await broker.depth("slow") == Depth(ready=COUNT)
    assert await broker.depth("work") == Depth()


async def test_more_than_can_be_stored_is_refused_and_can_end_otherwise(broker: PostgresBroker) -> None:
    async with broker.consume(["work"], prefetch=10) as consumer:
        first, second = await consumer.receive(2, 30.0)
        with pytest.raises(Rejected, match=f"{COUNT} publications"):
            await consumer.settle([Ack(first.tag, slow())])
        assert await consumer.settle([Dead(first.tag, "too much"), Ack(second.tag)]) == []
    assert (await broker.depth("slow"), await broker.depth("work")) == (Depth(), Depth(dead=1))


async def test_a_batch_that_does_not_fit_is_cut(broker: PostgresBroker) -> None:
    async with broker.consume(["work"], prefetch=10) as consumer:
        first, second = await consumer.receive(2, 30.0)
        half = COUNT * 3 // 5
        refusals = await consumer.settle([Ack(first.tag, slow()[:half]), Ack(second.tag, slow()[:half])])
    assert [refusal.why for refusal in refusals] in ([], ["stale"])
    assert await broker.depth("slow") == Depth(ready=2 * half)
