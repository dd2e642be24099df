"""The check finds every wrong date on every channel, and nothing where all is right."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx2
import psutil
import pytest

from channel_manager.bookings import FIRST_NIGHT
from channel_manager.check import TERMS, Difference, differences, fetch_state
from channel_manager.property import DAY, Listing, PropertyDatabase
from channel_manager.shapes import alpine_request, ical_feed, nimbus_deltas

from ..conftest import EXAMPLES

State = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture
def right(database: PropertyDatabase) -> State:
    """What the channels show when all is right, with the first night sold out."""
    for booking in (1, 2, 3):
        database.book(booking, 1, FIRST_NIGHT, FIRST_NIGHT + DAY)
    return {
        listing.channel: {listing.listing: dict(TERMS[listing.channel](database.expected(listing)))} for listing in database.every_listing()
    }


def push_all(http: httpx2.Client, database: PropertyDatabase) -> None:
    nights = {listing.channel: database.expected(listing) for listing in database.every_listing()}
    assert http.post("/alpine/alpine-1", content=alpine_request("alpine-1", nights["alpine"])).is_success
    assert http.post("/nimbus/nimbus-1/deltas", content=nimbus_deltas(nights["nimbus"])).is_success
    assert http.put("/ical/ical-1.ics", content=ical_feed("ical-1", nights["ical"])).is_success


def test_calendars_that_are_right_differ_nowhere(database: PropertyDatabase, right: State) -> None:
    assert differences(database, right) == []


@pytest.mark.parametrize(("channel", "wrong"), [("alpine", 1), ("nimbus", {"free": 0, "price": "1.00"}), ("ical", None)])
def test_one_wrong_date_is_found(database: PropertyDatabase, right: State, channel: str, wrong: object) -> None:
    calendar = right[channel][f"{channel}-1"]
    must = calendar.pop("2027-03-01")
    if wrong is not None:
        calendar["2027-03-01"] = wrong
    assert differences(database, right) == [Difference(channel, f"{channel}-1", "2027-03-01", must, wrong)]


def test_a_date_that_is_not_on_sale_is_found(database: PropertyDatabase, right: State) -> None:
    right["ical"]["ical-1"]["2027-03-05"] = "closed"
    assert differences(database, right) == [Difference("ical", "ical-1", "2027-03-05", None, "closed")]


def test_a_listing_that_was_never_pushed_and_one_that_is_nobodys_are_found(database: PropertyDatabase, right: State) -> None:
    right["alpine"] = {"other": {}}
    assert [(one.listing, one.date) for one in differences(database, right)] == [("alpine-1", "*"), ("other", "*")]


def test_a_closed_listing_may_show_anything(database: PropertyDatabase, right: State) -> None:
    right["nimbus"]["nimbus-1"].clear()
    database.offer(Listing("nimbus", "nimbus-1", 1, 10, rates=True, status="closed"))
    assert differences(database, right) == []


def test_real_channels_that_were_pushed_are_right_until_the_back_office_changes_something(
    http: httpx2.Client, server: tuple[psutil.Process, str], database: PropertyDatabase
) -> None:
    push_all(http, database)
    assert differences(database, fetch_state(server[1])) == []
    for booking in (1, 2):
        database.book(booking, 1, FIRST_NIGHT, FIRST_NIGHT + 2 * DAY)
    assert len(differences(database, fetch_state(server[1]))) == 3 * 2
    push_all(http, database)
    assert differences(database, fetch_state(server[1])) == []


def test_the_command_prints_the_differences_and_its_exit_code_tells_whether_there_are_any(
    http: httpx2.Client, server: tuple[psutil.Process, str], database: PropertyDatabase
) -> None:
    command = [sys.executable, "-m", "channel_manager.check", str(database.path), server[1]]
    wrong = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert (wrong.returncode, len([json.loads(line) for line in wrong.stdout.splitlines()])) == (1, 3)
    push_all(http, database)
    assert subprocess.run(command, cwd=EXAMPLES, capture_output=True, check=False).returncode == 0
