"""What is kept has an end: what is old or too much goes, by bounded parts, until that was all."""

from __future__ import annotations

import psycopg
import pytest

from chappe.engines.postgres import tending
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind

# pyright: reportPrivateUsage=false


async def _pruned(broker: PostgresBroker) -> None:
    """Prune turn by turn, until one finds that this was all."""
    broker.tending._pruned = -tending._PRUNE
    while broker.tending._pruned < 0:
        await broker.tending.turn()


async def _published(broker: PostgresBroker, exchange: str, *names: str) -> None:
    for name in names:
        await broker.publish([Publication(Envelope(name, "t", name.encode() * 500), "a", exchange)])


async def test_m4_an_archive_that_is_too_large_or_too_old_loses_its_oldest_and_the_loss_is_said_first(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "_AT_ONCE", 1)
    exchanges = (Exchange("small", archive=1e6, archive_bytes=5_200), Exchange("old", archive=0.000001), Exchange("kept", archive=1e6))
    await broker.declare(Topology(exchanges))
    store = PostgresStore(broker)
    for name in "abcdefghijklmnop":
        for exchange in ("small", "old", "kept"):
            await _published(broker, exchange, name)
    await _pruned(broker)
    page = await store.archived(0, 100)
    found = ["".join(record.envelope.id for record in page.records if record.exchange == exchange.name) for exchange in exchanges]
    assert found == ["hijklmnop", "", "abcdefghijklmnop"]
    assert page.lost == 7 + 16
    await _published(broker, "small", "q", "r")
    await _pruned(broker)
    page = await store.archived(0, 100)
    assert "".join(record.envelope.id for record in page.records if record.exchange == "small") == "jklmnopqr"


async def test_what_was_counted_is_added_up_and_nothing_of_it_is_lost(
    broker: PostgresBroker, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "_AT_ONCE", 3)

    async def published() -> int:
        return (await broker.summaries())["to.news"].totals[0]

    await broker.declare(Topology((Exchange("news", "fanout"),), (bind("to.news", "news:"), bind("also", "news:"))))
    before, passed = await published(), (await broker.passed()).get("news", (0, 0))
    for name in "abcdefg":
        await broker.publish([Publication(Envelope(name, "t", b""), "", "news")])
    broker.tending._swept = -tending._SWEEP
    await broker.tending.turn()
    await broker.publish([Publication(Envelope("h", "t", b""), "", "news")])
    assert await published() == before + 8
    assert (await broker.passed())["news"] == (passed[0] + 8, passed[1] + 16)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("select max(count) from (select count(*) from chappe.tally group by queue, exchange) counted")
        assert await cursor.fetchone() == (2,)


async def test_shares_of_tenants_that_are_no_longer_there_are_forgotten(broker: PostgresBroker, url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("set search_path = chappe")
        await connection.execute("insert into turn values (7, 5.0)")
        rows = [("gone", 9.0, 90_000), ("had little", 4.0, 700), ("has just run", 4.0, 5), ("had much", 9.0, 700)]
        for tenant, used, ago in rows:
            await connection.execute("insert into share values (7, %s, %s, 1, 1, now_seconds() - %s)", (tenant, used, ago))
        await _pruned(broker)
        found = await (await connection.execute("select tenant from share where queue = 7 order by tenant")).fetchall()
    assert [tenant for (tenant,) in found] == ["had much", "has just run"]
