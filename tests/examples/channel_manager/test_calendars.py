"""The channels' calendars change by what was pushed, and remember which messages they applied."""

from __future__ import annotations

import pytest

from channel_manager import calendars as module
from channel_manager.bookings import FIRST_NIGHT
from channel_manager.calendars import Calendars
from channel_manager.property import DAY, Night
from channel_manager.shapes import Delta, FreeRooms, ical_feed


def delta(n: int, free: int) -> Delta:
    return Delta(FIRST_NIGHT + n * DAY, free, "90.00")


def test_a_complete_set_replaces_a_calendar_and_another_one_only_adds_to_it() -> None:
    calendars = Calendars()
    calendars.take_alpine("a", FreeRooms("a", True, {FIRST_NIGHT: 1, FIRST_NIGHT + DAY: 1}))
    calendars.take_alpine("a", FreeRooms("a", False, {FIRST_NIGHT: 2}))
    assert calendars.state()["alpine"]["a"] == {"2027-03-01": 2, "2027-03-02": 1}
    calendars.take_alpine("a", FreeRooms("a", True, {FIRST_NIGHT: 0}))
    assert calendars.state()["alpine"]["a"] == {"2027-03-01": 0}


def test_a_message_is_applied_once_for_each_listing() -> None:
    calendars = Calendars()
    assert calendars.take_nimbus("a", "m1", [delta(0, 3)])
    assert calendars.take_nimbus("a", "m2", [delta(0, 1)])
    assert not calendars.take_nimbus("a", "m1", [delta(0, 3)])
    assert calendars.take_nimbus("b", "m1", [delta(0, 3)])
    assert calendars.state()["nimbus"]["a"] == {"2027-03-01": {"free": 1, "price": "90.00"}}


def test_only_so_many_message_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_IDS", 2)
    calendars = Calendars()
    assert [calendars.take_nimbus("a", message, []) for message in ("m1", "m2", "m3", "m3", "m1")] == [True, True, True, False, True]


def test_an_unreadable_feed_says_so_in_the_state() -> None:
    calendars = Calendars()
    calendars.take_ical("a", b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n")
    assert "unreadable" in calendars.state()["ical"]["a"]


def test_a_feed_that_changes_has_another_etag() -> None:
    calendars = Calendars()
    feeds = [ical_feed("a", [Night(FIRST_NIGHT, free, 0)]) for free in (0, 1, 0)]
    first, second, third = (calendars.take_ical("a", feed) for feed in feeds)
    assert first == third != second
