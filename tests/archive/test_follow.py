"""The past, then the present, in one call."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chappe import App, Event, Exchange, Settings
from chappe.archive import follow
from chappe.archive.follow import Following, Heard, since_of
from chappe.errors import DefinitionError, InvalidMessage
from chappe.messages.envelope import Envelope, Publication
from chappe.testing import Trial, testing


class BidRaised(Event):
    lot: str
    amount: int
    at: datetime | None = None


class BidLost(Event):
    lot: str


class OddNote(Event, exchange=Exchange("short", archive=100.0), routing_key="odd.note"):
    text: str


@pytest.fixture
async def trial() -> AsyncIterator[Trial]:
    app = App("auction")
    app.knows(BidRaised, BidLost, OddNote)
    async with testing(app) as t:
        yield t


async def raised(app: App, *amounts: int) -> None:
    await app.asend([BidRaised(lot="vase", amount=amount) for amount in amounts])


async def take(following: Following, count: int) -> list[Heard]:
    """Hear so many events; only a hang takes longer."""
    found: list[Heard] = []
    async with asyncio.timeout(60):
        async for heard in following:
            found.append(heard)
            if len(found) == count:
                break
    return found


def amounts(found: list[Heard]) -> list[int]:
    return [heard.event.amount for heard in found]


async def test_m4_the_past_is_heard_first_and_then_the_present(trial: Trial) -> None:
    app = trial.app
    await raised(app, 1, 2)
    following = app.follow("bid.*", since=0)
    assert amounts(await take(following, 2)) == [1, 2]
    following = app.follow("bid.*", since=0)
    task = asyncio.ensure_future(take(following, 4))
    await raised(app, 3, 4)
    assert amounts(await task) == [1, 2, 3, 4]


async def test_m4_there_is_no_hole_and_no_repeat_at_the_seam(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    app = trial.app
    monkeypatch.setattr(follow, "AT_ONCE", 7)
    await raised(app, *range(100))
    task = asyncio.ensure_future(take(app.follow("bid.#", since=0), 300))
    for batch in [range(n, n + 4) for n in range(100, 300, 4)]:
        await raised(app, *batch)
    found = await task
    assert amounts(found) == list(range(300))
    assert [heard.seq for heard in found] == list(range(1, 301))


async def test_without_since_only_what_comes_is_heard(trial: Trial) -> None:
    app = trial.app
    await raised(app, 1)
    following = app.follow("bid.*")
    task = asyncio.ensure_future(take(following, 1))
    while following.position < 0:
        await asyncio.sleep(0.001)
    await raised(app, 2)
    assert amounts(await task) == [2]


async def test_a_pattern_chooses_and_what_does_not_fit_is_passed_over(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    app = trial.app
    monkeypatch.setattr(follow, "AT_ONCE", 2)
    for n in range(9):
        await app.asend(BidLost(lot=str(n)))
    await raised(app, 1)
    (heard,) = await take(app.follow("bid.raised", since=0), 1)
    assert (heard.seq, heard.type, heard.event.amount) == (10, "bid.raised", 1)


async def test_since_a_time_and_since_a_span(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    app = trial.app
    begun = trial.now
    monkeypatch.setattr(follow.time, "time", lambda: trial.now)
    for n in range(10):
        await raised(app, n)
        trial.advance(10)
    moment = datetime.fromtimestamp(begun + 35, UTC)
    assert amounts(await take(app.follow(since=moment), 6)) == [4, 5, 6, 7, 8, 9]
    assert amounts(await take(app.follow(since=timedelta(seconds=25)), 2)) == [8, 9]
    assert amounts(await take(app.follow(since=timedelta(days=30)), 10)) == list(range(10))


async def test_h10_a_follower_with_a_name_goes_on_where_it_was(trial: Trial) -> None:
    app = trial.app
    await raised(app, 0)
    following = app.follow("bid.*", name="screen", since="last")
    task = asyncio.ensure_future(take(following, 3))
    while following.position < 0:
        await asyncio.sleep(0.001)
    await raised(app, 1, 2, 3)
    assert amounts(await task) == [1, 2, 3]
    await following.aclose()
    await raised(app, 4)
    assert amounts(await take(app.follow("bid.*", name="screen"), 2)) == [3, 4], "what its loop was not done with is heard again"


async def test_h11_a_follower_that_acknowledges_hears_again_what_it_did_not(trial: Trial) -> None:
    app = trial.app
    following = app.follow("bid.*", name="ledger", since=0, acks=True)
    await raised(app, 1, 2, 3)
    for heard in await take(following, 3):
        if heard.event.amount == 1:
            await following.ack(heard)
    await following.aclose()
    assert amounts(await take(app.follow("bid.*", name="ledger", acks=True), 2)) == [2, 3]


async def test_h9_a_follower_that_does_not_catch_up_hears_how_much_it_missed(trial: Trial) -> None:
    app = trial.app
    following = app.follow("bid.raised", name="lamp", since=0, catches_up=False)
    await raised(app, 1)
    assert amounts(await take(following, 1)) == [1]
    await following.aclose()
    await raised(app, 2, 3)
    await app.asend(BidLost(lot="vase"))
    following = app.follow("bid.raised", name="lamp", catches_up=False)
    task = asyncio.ensure_future(take(following, 2))
    while following.position < 4:
        await asyncio.sleep(0.001)
    await raised(app, 4)
    missed, heard = await task
    assert (missed.type, missed.lost) == ("chappe.lost", 3), "the one that its loop was at when it ended, too"
    assert heard.event.amount == 4


async def test_m4_lost_history_is_heard_first(trial: Trial) -> None:
    app = trial.app
    following = app.follow("odd.*", name="reader", since=0)
    await app.asend([OddNote(text="1"), OddNote(text="2")])
    assert len(await take(following, 2)) == 2
    await following.aclose()
    await app.asend([OddNote(text="3"), OddNote(text="4")])
    trial.advance(200)
    await app.asend(OddNote(text="5"))
    lost, heard = await take(app.follow("odd.*", name="reader"), 2)
    assert (lost.type, lost.lost, lost.event, lost.seq) == ("chappe.lost", 3, None, 4)
    assert (heard.body, heard.lost) == ({"text": "5"}, 0)


async def test_m4_a_position_of_another_archive_is_lost_history(trial: Trial) -> None:
    app = trial.app
    await raised(app, 1)
    following = app.follow("bid.*", since=1000)
    (lost,) = await take(following, 1)
    assert (lost.lost, lost.seq) == (-1, 1)


async def test_whoever_asks_for_everything_that_is_kept_lost_nothing(trial: Trial) -> None:
    app = trial.app
    await app.asend(OddNote(text="old"))
    trial.advance(200)
    await app.asend(OddNote(text="young"))
    for since in (0, timedelta(days=30)):
        (heard,) = await take(app.follow(since=since), 1)
        assert heard.body == {"text": "young"}


async def test_h4_events_come_as_objects_with_dates_and_what_is_no_json_as_bytes(trial: Trial) -> None:
    app, text = trial.app, "Æ¢V→−≠É–È„⋅®…"
    await app.asend(BidRaised(lot=text, amount=1, at=datetime(2026, 11, 29, tzinfo=UTC)))
    connection = await app.connection()
    await connection.broker.publish([Publication(Envelope("1", "foreign", b"\xff\x00"), "foreign", "events")])
    await connection.broker.publish([Publication(Envelope("2", "bid.raised", b'{"lot": 5}'), "bid.raised", "events")])
    typed, raw, wrong = await take(app.follow(since=0), 3)
    assert typed.event == BidRaised(lot=text, amount=1, at=datetime(2026, 11, 29, tzinfo=UTC))
    assert typed.body == {"lot": text, "amount": 1, "at": "2026-11-29T00:00:00Z"}
    assert (raw.body, raw.event) == (b"\xff\x00", None)
    assert (wrong.body, wrong.event) == ({"lot": 5}, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"since": "last"}, "give it name"),
        ({"acks": True}, "give it name"),
        ({"since": "yesterday"}, "datetime"),
        ({"since": datetime(2026, 1, 1)}, "time zone"),
    ],
)
def test_what_cannot_be_followed_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        App("auction").follow(**options)


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("184", 184), ("15m", timedelta(minutes=15)), ("30d", timedelta(days=30)), ("last", "last"), ("now", None),
        ("2026-11-29T12:00:00Z", datetime(2026, 11, 29, 12, tzinfo=UTC)), ("2026-11-29", datetime(2026, 11, 29, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_since_is_read_as_people_write_it(text: str, since: Any) -> None:
    assert since_of(text) == since


@pytest.mark.parametrize("text", ["", "-1", "1w", "yesterday", "9" * 30, "1e3", "15 m", "\x00", "9999999999d"])
def test_a_since_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessage, match="since"):
        since_of(text)


async def test_h16_events_are_followed_where_no_engine_runs(tmp_path: Path) -> None:
    """Two programs over one file, and nothing else."""
    settings = Settings(broker=f"sqlite:///{tmp_path}/chappe.db")
    ping, pong = App("ping"), App("pong")
    for app in (ping, pong):
        app.configure(settings)
        app.knows(BidRaised)
    await raised(ping, 1)  # before anybody listens
    following = pong.follow("bid.*", since=0)
    task = asyncio.ensure_future(take(following, 2))
    await raised(ping, 2)
    assert amounts(await task) == [1, 2]
    await following.aclose()
    await ping.aclose()
    await pong.aclose()
