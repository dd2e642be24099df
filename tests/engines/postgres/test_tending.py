"""What is kept has an end: what is old or too much goes, by bounded parts, until that was all."""

from __future__ import annotations

import pytest

from chappe.engines.postgres import tending
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology

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
    exchanges = (Exchange("small", archive=1e6, archive_bytes=5_000), Exchange("old", archive=0.000001), Exchange("kept", archive=1e6))
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
