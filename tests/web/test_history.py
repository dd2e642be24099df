"""The history of the queues: what a minute is, how minutes become hours and days, and what is forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chappe import App, Event
from chappe.engines.contract.fleet import QueueStatus
from chappe.web.history import ALL, DAY, HOUR, MINUTE, History, Point, points_of
from chappe.web.watching import Watching

from ..waiting import PATIENCE
from .shop import Open, opened

MIDNIGHT = 20_000 * DAY


def queue(name: str = "orders", **values: Any) -> QueueStatus:
    return QueueStatus(name, (), "", **{"ready": 0, "running": 0, "delayed": 0, "dead": 0, "consumers": 0, **values})


def test_a_minute_has_what_is_there_and_what_was_counted_since_the_one_before() -> None:
    queues = [
        queue("a", ready=3, published=10, done=7, retried=1, died=0, oldest=2.5), queue("b", running=1, published=4, done=2, oldest=9.0),
        queue("quiet", published=5, done=5, retried=0, died=0), queue("gone", temporary=True, ready=9),
    ]  # fmt: skip
    before = {"a": (4, 4, 1, 0), "b": (100, 1, None, None), "quiet": (5, 5, 0, 0)}
    found = points_of(MIDNIGHT + 61.5, queues, before)
    assert found["a"] == Point(MIDNIGHT + 60, 3, 0, 0, 0, 2.5, 6, 3, 0, 0)
    assert found["b"] == Point(MIDNIGHT + 60, 0, 1, 0, 0, 9.0, 4, 1, None, None), "an engine that began anew counts from nothing"
    assert found[ALL] == Point(MIDNIGHT + 60, 3, 1, 0, 0, 9.0, 10, 4, 0, 0)
    assert set(found) == {"a", "b", ALL}
    assert points_of(MIDNIGHT, queues, {})["a"].published is None, "how many were published in the first minute nobody knows"


@pytest.fixture
def history(tmp_path: Path) -> Any:
    history = History(tmp_path / "a.history")
    yield history
    history.close()


def record(history: History, at: int, **values: Any) -> None:
    point = Point(at, **{"published": 0, "done": 0, **values})
    history.record(at, {ALL: point} | ({"orders": point} if values else {}))


def test_minutes_become_hours_and_hours_days_when_they_have_ended_and_before(history: History) -> None:
    for minute in range(0, 26 * 60, 10):
        record(history, MIDNIGHT + minute * MINUTE, ready=minute // 60, oldest=float(minute), published=2, done=1)
    hours = history.read("orders", HOUR, MIDNIGHT, MIDNIGHT + 26 * HOUR - 1)
    assert [(point.at - MIDNIGHT) // HOUR for point in hours] == list(range(26))
    assert hours[3] == Point(MIDNIGHT + 3 * HOUR, 3, 0, 0, 0, 230.0, 12, 6, None, None)
    assert hours[25].published == 12, "the hour that goes on is there too"
    first, second = history.read("orders", DAY, MIDNIGHT, MIDNIGHT + 26 * HOUR - 1)
    assert (first.ready, first.oldest, first.published, second.published) == (11.5, 1430.0, 24 * 12, 24)
    assert len(history.read("orders", MINUTE, MIDNIGHT, MIDNIGHT + HOUR - 1)) == 6


def test_a_quiet_queue_costs_no_row_and_is_nothing_on_average(history: History) -> None:
    for minute in range(60):
        record(history, MIDNIGHT + minute * MINUTE, **({"ready": 60, "published": 1} if minute == 30 else {}))
    record(history, MIDNIGHT + HOUR)
    assert [point.ready for point in history.read("orders", MINUTE, MIDNIGHT, MIDNIGHT + HOUR - 1)] == [0] * 30 + [60] + [0] * 29
    (hour, now) = history.read("orders", HOUR, MIDNIGHT, MIDNIGHT + HOUR)
    assert (hour.ready, hour.published, now.ready, now.published) == (1.0, 1, 0, 0)
    assert history.read("unknown", HOUR, MIDNIGHT, MIDNIGHT + HOUR)[0] == Point(MIDNIGHT, 0, 0, 0, 0, 0, 0, 0, None, None)


def test_where_nobody_looked_there_is_nothing(history: History) -> None:
    for hour in (0, 1, 5):
        record(history, MIDNIGHT + hour * HOUR, ready=1)
    assert [(point.at - MIDNIGHT) // HOUR for point in history.read("orders", HOUR, MIDNIGHT, MIDNIGHT + 6 * HOUR)] == [0, 1, 5]


def test_minutes_are_kept_for_a_week_and_hours_and_days_for_a_quarter(history: History) -> None:
    for day in range(100):
        for hour in (0, 12):
            record(history, MIDNIGHT + day * DAY + hour * HOUR, ready=day + 1, published=1)
    now = MIDNIGHT + 99 * DAY + 12 * HOUR
    assert {point.at // DAY for point in history.read("orders", MINUTE, 0, now)} == set(range(20_092, 20_100))
    for step in (HOUR, DAY):
        days = [point.at // DAY - 20_000 for point in history.read("orders", step, 0, now)]
        assert (min(days), max(days)) in ((9, 99), (10, 99))
    assert history.read("orders", DAY, 0, now)[-2] == Point(MIDNIGHT + 98 * DAY, 99, 0, 0, 0, 0, 2, 0, None, None)


def test_it_goes_on_after_a_restart_and_folds_what_ended_meanwhile(tmp_path: Path) -> None:
    for hour in range(4):
        history = History(tmp_path / "a.history")
        record(history, MIDNIGHT + hour * HOUR, ready=hour, published=1)
        history.close()
    history = History(tmp_path / "a.history")
    assert [point.ready for point in history.read("orders", HOUR, MIDNIGHT, MIDNIGHT + 4 * HOUR)] == [0, 1, 2, 3]
    assert history.read("orders", DAY, MIDNIGHT, MIDNIGHT + 4 * HOUR)[0].published == 4
    history.close()
    assert (tmp_path / "a.history").stat().st_mode & 0o777 == 0o600


def test_one_of_those_who_opened_it_writes_until_it_closes(tmp_path: Path) -> None:
    first, second = History(tmp_path / "a.history"), History(tmp_path / "a.history")
    assert (first.lead(), second.lead(), first.lead()) == (True, False, True)
    first.close()
    assert second.lead()
    second.close()


async def test_a_gateway_looks_once_a_minute_and_tells_it_over_http(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        now = float(MIDNIGHT)
        watching = Watching(shop.app, lambda: now)
        for minute in range(1, 4):
            await invited(shop, minute)
            now = MIDNIGHT + minute * MINUTE + 0.5
            for _ in range(3):
                await watching.look()
        points = await watching.history(lambda history: history.read("invites", MINUTE, MIDNIGHT, now))
        assert [(point.at - MIDNIGHT, point.ready, point.published) for point in points] == [(0, 1, None), (60, 2, 1), (120, 3, 1)]
        other = Watching(shop.app, lambda: now)
        now += MINUTE
        await other.look()
        assert len(await other.history(lambda history: history.read(ALL, MINUTE, MIDNIGHT, now))) == 3, "the first one does it"
        await watching.close()
        await invited(shop, 4)
        await other.look()
        last = (await other.history(lambda history: history.read("invites", MINUTE, MIDNIGHT, now)))[-1]
        assert (last.at - MIDNIGHT, last.published) == (180, 1), "what is counted goes on with the next one"
        assert await other.history(lambda history: history.counted(now + 10 * MINUTE)) == {}
        await other.close()
        answer = (await shop.client.get("/api/history", params={"queue": "invites", "period": "week"})).json()
        assert answer == {"step": HOUR, "points": []}
        assert (await shop.client.get("/api/history", params={"period": "century"})).status_code == 422


class Bid(Event):
    amount: int


def bidding(subscribers: int) -> App:
    app = App("house")
    for number in range(subscribers):

        @app.on(Bid, name=f"subscriber{number}")
        async def bid(event: Bid) -> None: ...

    return app


@pytest.mark.parametrize("subscribers", [1, 2])
async def test_what_is_delivered_is_what_was_published_for_each_subscriber(tmp_path: Path, subscribers: int) -> None:
    async with opened(tmp_path, make=lambda: bidding(subscribers)) as house:
        now = float(MIDNIGHT)
        watching = Watching(house.app, lambda: now)
        for minute in range(1, 4):
            await house.app.asend([Bid(amount=n) for n in range(minute * 10)])
            async with house.working(), asyncio.timeout(PATIENCE):
                while any(queue.ready or queue.running for queue in (await (await house.app.connection()).store.overview()).queues):
                    await asyncio.sleep(0.01)
            now = MIDNIGHT + minute * MINUTE + 0.5
            await watching.look()
        points = await watching.history(lambda history: history.read(ALL, MINUTE, MIDNIGHT, now))
        assert [(point.published, point.done) for point in points] == [
            (None, None),
            *((n * subscribers, n * subscribers) for n in (20, 30)),
        ]
        names = [queue.name for queue in (await (await house.app.connection()).store.overview()).queues]
        for name in names:
            one = await watching.history(lambda history, name=name: history.read(name, MINUTE, MIDNIGHT, now))
            assert [(point.published, point.done) for point in one] == [(None, None), (20, 20), (30, 30)]
        assert len(names) == subscribers
        await watching.close()


async def invited(shop: Open, number: int) -> None:
    assert (await shop.client.post("/commands/invite", json={"address": str(number)})).status_code == 202
