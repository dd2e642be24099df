"""A durable subscriber that begins in the past, of an application under test."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chappe import App, Event, Exchange
from chappe.errors import DefinitionError
from chappe.testing import testing


class BidRaised(Event):
    amount: int


class BidLost(Event):
    amount: int


class BellRung(Event, exchange=Exchange("bells", "fanout", archive=3600.0), routing_key="bell.{house}"):
    house: str


class NoteLeft(Event, exchange=Exchange("notes"), routing_key="note.left"):
    amount: int


def test_m4_a_subscriber_begins_where_it_says_and_goes_on_with_what_comes() -> None:
    app, heard = App("auction"), list[int]()

    @app.on("bid.*", since=timedelta(hours=1))
    async def keep(event: Event) -> None:
        assert isinstance(event, BidRaised | BidLost)
        heard.append(event.amount)
        if event.amount == 3:
            await app.apublish(BidLost(amount=4))

    app.knows(BidRaised, BidLost)
    for _ in range(2):  # the second time begins anew
        heard.clear()
        with testing(app) as t:
            app.publish(BidRaised(amount=1))
            t.advance(7200)
            app.send([BidRaised(amount=2), BidRaised(amount=3)])
            t.drain()
            assert heard == [2, 3, 4]
            t.publish(BidLost(amount=5))
            t.drain()
            assert heard == [2, 3, 4, 5]
            assert [event.amount for event in t.sent(BidRaised)] == [1, 2, 3], "what the archive gives was not sent again"


def test_m4_whatever_kind_of_exchange_an_event_has_it_comes_from_the_archive() -> None:
    app, heard = App("houses"), list[str]()

    @app.on(BellRung, since=0)
    def ring(event: BellRung) -> None:
        heard.append(event.house)

    with testing(app) as t:
        app.knows(BidRaised)
        app.send([BellRung(house="a.b"), BidRaised(amount=1), BellRung(house="c")])
        t.drain()
    assert heard == ["a.b", "c"]


@pytest.mark.parametrize(
    ("what", "options", "told"),
    [
        (NoteLeft, {"since": 0}, 'exchange "notes" archives nothing'),
        (BidRaised, {"since": 0, "temporary": True}, "has no past to begin in"),
        (BidRaised, {"since": "last"}, "says nothing"),
        (BidRaised, {"since": datetime(2026, 11, 29)}, "time zone"),  # noqa: DTZ001 - that is the fault
    ],
)
def test_a_past_that_there_is_none_of_is_refused_where_it_is_declared(what: type[Event], options: dict[str, Any], told: str) -> None:
    def keep(event: Event) -> None: ...

    with pytest.raises(DefinitionError, match=told):
        App("auction").on(what, **options)(keep)


def test_a_moment_in_the_past_and_a_seq_are_places_to_begin() -> None:
    for since in (datetime.fromtimestamp(0, UTC), 0):
        app, heard = App("auction"), list[int]()

        @app.on(BidRaised, since=since)
        def keep(event: BidRaised, heard: list[int] = heard) -> None:
            heard.append(event.amount)

        with testing(app) as t:
            app.publish(BidRaised(amount=1))
            t.drain()
        assert heard == [1]
