"""A single message is found by its id, whatever else is stored."""

from __future__ import annotations

import pytest

from chappe.engines.contract.broker import Dead
from chappe.engines.postgres import contents, looking
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore
from chappe.messages.envelope import Envelope, Publication


@pytest.mark.parametrize("values", [
    (looking._FIND, {"id": "m", "queue": None}), (contents._CANCEL, {"id": "m", "why": "", "state": "dead"}),
], ids=["find", "cancel"])  # fmt: skip
async def test_what_nobody_tracks_is_found_by_an_index(broker: PostgresBroker, values: tuple[str, dict[str, object]]) -> None:
    statement, named = values
    plan = "\n".join(row[0] for row in await broker.database.once("explain " + statement, named))  # type: ignore[operator]
    indexes = ("message_by_id", "dead_by_id") if statement is looking._FIND else ("message_by_id",)
    assert all(index in plan for index in indexes), plan
    assert "Seq Scan on message" not in plan, plan
    assert "Seq Scan on dead" not in plan, plan


async def test_an_answer_that_looks_at_a_part_goes_on_where_it_ended(broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "_LOOKED_AT", 4)
    await broker.publish([Publication(Envelope(f"m{n}", "t", b"odd" if n % 2 else b"even"), "q") for n in range(9)])
    async with broker.consume(["q"], prefetch=1) as consumer:
        (one,) = await consumer.receive(1, 0.0)
        await consumer.settle([Dead(one.tag, "rejected", "odd")])
    store, pages, cursor = PostgresStore(broker), list[list[str]](), ""
    while True:
        page = await store.look("q", "ready", containing=[b"odd"], cursor=cursor)
        pages.append([message.envelope.id for message in page.messages])
        if page.cursor is None:
            break
        cursor = page.cursor
    assert pages == [["m1", "m3"], ["m5", "m7"], []]
