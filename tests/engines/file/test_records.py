"""What is kept has an end: results, keys and the archive's old part go, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chappe.bounds import BUDGETS_KEPT, IDEMPOTENCY_KEPT, RESULTS_KEPT
from chappe.engines.contract.archive import Page
from chappe.engines.contract.broker import Ack
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.server import Engine
from chappe.engines.file.store import store_of
from chappe.errors import NotFound
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(tmp_path: Path, clock: Clock) -> AsyncIterator[Engine]:
    made = Engine(tmp_path / "chappe.db", now=clock, grace=0.0)
    yield made
    made.close()


@pytest.fixture
async def broker(engine: Engine) -> AsyncIterator[FileBroker]:
    made = FileBroker(engine.ledger.turn.path, engine=engine)
    await made.declare(Topology((Exchange("news", "topic", archive=100.0),), (bind("q"),)))
    yield made
    await made.close()


def message(identity: str, options: Options | None = None, *, exchange: str = "", key: str = "q") -> Publication:
    return Publication(Envelope(identity, "t", b"{}"), key, exchange, options=options)


def prune(engine: Engine) -> None:
    engine.verbs.records.prune()
    engine.ledger.turn.commit()


async def test_a_result_is_kept_for_its_time_and_a_waiting_message_for_ever(engine: Engine, broker: FileBroker, clock: Clock) -> None:
    store = store_of(broker)
    await broker.publish([message("done", Options(tracked=True)), message("waiting", Options(tracked=True))])
    async with broker.consume(["q"], prefetch=1) as consumer:
        (delivery,) = await consumer.receive(1, 1.0)
        await consumer.settle([Ack(delivery.tag, result=b"1")])
    clock.now += RESULTS_KEPT - 1
    prune(engine)
    assert (await store.state("done")).result == b"1"
    clock.now += 2
    prune(engine)
    with pytest.raises(NotFound, match="24 hours"):
        await store.state("done")
    assert (await store.state("waiting")).state == "ready"


async def test_an_idempotency_key_may_be_used_again_after_its_time(engine: Engine, broker: FileBroker, clock: Clock) -> None:
    def keyed(identity: str) -> Publication:
        return message(identity, Options(idempotency_key="k", fingerprint="f"))

    assert [r.outcome for r in await broker.publish([keyed("a")])] == ["stored"]
    clock.now += IDEMPOTENCY_KEPT - 1
    prune(engine)
    assert [r.outcome for r in await broker.publish([keyed("b")])] == ["duplicate"]
    clock.now += 2
    prune(engine)
    assert [r.outcome for r in await broker.publish([keyed("c")])] == ["stored"]


async def test_the_archive_loses_only_its_old_end_and_stays_without_gaps(engine: Engine, broker: FileBroker, clock: Clock) -> None:
    store = store_of(broker)
    for n in range(5):
        await broker.publish([message(str(n), exchange="news", key="a.b")])
        clock.now += 30
    prune(engine)
    page = await store.archived(0, 10)
    assert ([record.seq for record in page.records], page.lost) == ([3, 4, 5], 2)
    assert (await store.archived(1, 10)).lost == 1
    assert (await store.archived(2, 10)).lost == 0
    await broker.publish([message("6", exchange="news", key="a.b")])
    assert [record.seq for record in (await store.archived(0, 10)).records] == [3, 4, 5, 6]


async def test_what_one_exchange_keeps_for_long_does_not_keep_what_lies_behind_it_of_another(
    engine: Engine, broker: FileBroker, clock: Clock
) -> None:
    store = store_of(broker)
    await broker.declare(Topology((Exchange("ledgers", "topic", archive=10_000.0),)))
    for n in range(3):
        await broker.publish([message(f"long-{n}", exchange="ledgers", key="a"), message(f"short-{n}", exchange="news", key="a")])
    clock.now += 101
    await broker.publish([message("young", exchange="news", key="a")])
    prune(engine)
    assert [record.envelope.id for record in (await store.archived(0, 10)).records] == ["long-0", "long-1", "long-2", "young"]
    clock.now += 10_000
    prune(engine)
    prune(engine)
    page = await store.archived(2, 10)
    assert (page.records, page.cursor, page.end, page.lost) == ([], 7, 7, 5)
    await broker.publish([message("next", exchange="news", key="a")])
    assert [record.seq for record in (await store.archived(0, 10)).records] == [8]


async def test_a_budget_that_nobody_used_for_a_day_is_forgotten(engine: Engine, broker: FileBroker, clock: Clock) -> None:
    await store_of(broker).take("pocket", 1.0, 1)
    clock.now += BUDGETS_KEPT + 2
    prune(engine)
    assert engine.ledger.turn.db.execute("select count(*) from budget").fetchone() == (0,)


async def test_m4_an_archive_that_is_too_large_loses_its_oldest_and_the_loss_is_said_first(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chappe.engines.file.records._DELETED_AT_ONCE", 4)
    store = store_of(broker)
    await broker.declare(Topology((Exchange("small", "topic", archive=1e6, archive_bytes=5_000),)))

    async def publish(*names: str) -> None:
        for name in names:
            body = Envelope(name, "t", name.encode() * 500)
            await broker.publish([Publication(body, "a", "small"), message(f"other-{name}", exchange="news", key="a")])
        for _ in range(20):
            prune(engine)

    def of_small(page: Page) -> str:
        return "".join(record.envelope.id for record in page.records if record.exchange == "small")

    await publish(*"abcdefghijklmnop")
    page = await store.archived(0, 100)
    assert of_small(page) == "hijklmnop", "the youngest within 5,000 bytes"
    assert (len(page.records), page.lost) == (16 + 9, 7)
    await publish("q", "r")
    page = await store.archived(0, 100)
    assert (of_small(page), page.lost) == ("jklmnopqr", 9)
