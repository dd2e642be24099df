"""What is a lot is estimated: no look at the whole costs more than so many messages of each queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chappe.engines.contract.fleet import QueueStatus
from chappe.engines.postgres import counting
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from ...servers import shared


@pytest.fixture
async def broker(shared_servers: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresBroker]:
    monkeypatch.setattr(counting, "MOST", 100)
    made = PostgresBroker(shared.database(*shared_servers).url, deadline=60.0)
    await made.declare(Topology(queues=(bind("small"), bind("large"), bind("behind"))))
    yield made
    await made.close()


async def seen(broker: PostgresBroker) -> dict[str, QueueStatus]:
    return {queue.name: queue for queue in (await PostgresStore(broker).overview()).queues}


async def test_up_to_the_bound_counts_are_exact_and_beyond_they_are_estimates(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def many(queue: str, count: int, key: str | None = None) -> list[Publication]:
        options = None if key is None else Options(key=key)
        return [Publication(Envelope(f"{queue}-{n}", "t", b"{}"), queue, options=options) for n in range(count)]

    await broker.publish([*many("small", 99), *many("large", 3000), *many("behind", 1000, "k")])
    found = await seen(broker)
    assert {name: (queue.ready, queue.is_estimate) for name, queue in found.items()} == {
        "small": (99, False), "large": (3000, True), "behind": (1000, True),
    }, "a table of few pages is looked through"  # fmt: skip
    monkeypatch.setattr(counting, "_PAGES", 40)
    found = await seen(broker)
    assert found["small"].ready == 99
    assert 1500 <= found["large"].ready <= 6000, "some pages stand for all"


async def test_of_what_was_just_stored_the_beginning_of_an_index_is_counted(broker: PostgresBroker) -> None:
    await broker.publish([Publication(Envelope(f"new-{n}", "t", b"{}"), "large") for n in range(3000)])
    await broker.database.once("update pg_class set reltuples = 1e6, relpages = 40 where oid = 'message'::regclass", ())
    rows = await broker.database.once("explain " + counting._COUNT, {"queues": [1, 2, 3], "most": 100})
    plan = "\n".join(row[0] for row in rows)
    assert "Bitmap" not in plan, plan
    assert "Sort Key: m" not in plan, plan
