"""Each channel's shape says exactly the nights it was made from, and refuses what is not one."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_manager.bookings import FIRST_NIGHT, shared_folder
from channel_manager.property import DAY, Night
from channel_manager.shapes import (
    MOST_NIGHTS,
    OTA,
    ShapeError,
    alpine_answer,
    alpine_request,
    etree,
    free_runs,
    ical_feed,
    nimbus_deltas,
    read_alpine,
    read_ical,
    read_nimbus,
    read_schema,
)

calendars = st.dictionaries(
    st.integers(0, 120),
    st.tuples(st.integers(0, 3), st.integers(0, 99_999)),
    max_size=60,
).map(lambda by_day: [Night(FIRST_NIGHT + n * DAY, free, cents) for n, (free, cents) in by_day.items()])


def nights(*free: int) -> list[Night]:
    return [Night(FIRST_NIGHT + n * DAY, units, 9_000) for n, units in enumerate(free)]


def hotel() -> Path:
    shared = shared_folder()
    if shared is None:
        pytest.skip("the real messages are in shared/data, which is absent")
    return shared / "data/hotel"


def xml(inside: str) -> bytes:
    return f'<OTA_HotelAvailNotifRQ xmlns="{OTA}" Version="1">{inside}</OTA_HotelAvailNotifRQ>'.encode()


def availability(first: str, last: str, limit: str = "1") -> str:
    return (
        f'<AvailStatusMessages HotelCode="h"><AvailStatusMessage BookingLimit="{limit}" BookingLimitMessageType="SetLimit">'
        f'<StatusApplicationControl Start="{first}" End="{last}"/></AvailStatusMessage></AvailStatusMessages>'
    )


@given(calendars)
def test_alpine_gives_back_the_free_units_of_every_night(calendar: list[Night]) -> None:
    read = read_alpine(alpine_request("hotel-1", calendar))
    assert read.free == {night.date: night.free for night in calendar}
    assert (read.hotel_code, read.complete) == ("hotel-1", True)


@given(calendars)
def test_nimbus_gives_back_every_night_with_its_price_to_the_cent(calendar: list[Night]) -> None:
    deltas = read_nimbus(nimbus_deltas(calendar))
    assert [Night(delta.date, delta.free, delta.cents) for delta in deltas] == calendar


@given(calendars)
def test_ical_gives_back_exactly_the_nights_with_nothing_free(calendar: list[Night]) -> None:
    assert read_ical(ical_feed("hotel-1", calendar)) == {night.date for night in calendar if night.free == 0}


@given(calendars)
def test_runs_are_as_few_as_can_be_and_leave_no_night_out(calendar: list[Night]) -> None:
    runs = free_runs(calendar)
    assert {first + n * DAY: free for first, last, free in runs for n in range((last - first).days + 1)} == {
        night.date: night.free for night in calendar
    }
    for (_, last, free), (first, _, other) in pairwise(runs):
        assert first > last + DAY or free != other


@pytest.mark.parametrize("calendar", [nights(), nights(1), nights(2, 2, 0, 0, 1), nights(*range(90))])
def test_every_alpine_message_is_valid_by_the_schema(schema: Path, calendar: list[Night]) -> None:
    read_alpine(alpine_request("hotel-1", calendar), read_schema(schema))


@pytest.mark.parametrize("error", [None, "wrong: <&> \x00\x1b é"])
def test_every_alpine_answer_is_valid_by_the_schema(schema: Path, error: str | None) -> None:
    assert read_schema(schema).validate(etree.fromstring(alpine_answer(error)))


def test_the_published_example_message_is_read() -> None:
    message = hotel() / "alpinebits/v_2018_10/FreeRooms-OTA_HotelAvailNotifRQ.xml"
    read = read_alpine(message.read_bytes(), read_schema(message.with_name("alpinebits.xsd")))
    assert (read.hotel_code, len(read.free), set(read.free.values())) == ("123", 20, {1})


def test_a_real_calendar_export_is_read() -> None:
    closed = read_ical((hotel() / "ical/booking.ics").read_bytes())
    assert {dt.date(2025, 4, 25), dt.date(2025, 4, 26)} <= closed
    assert dt.date(2025, 4, 27) not in closed


def test_neighbouring_equal_nights_are_one_range() -> None:
    assert alpine_request("h", nights(2, 2, 2, 0, 0)).count(b"<StatusApplicationControl") == 2


def test_a_night_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        alpine_request("h", [*nights(1), *nights(0)])


def test_a_feed_has_one_event_for_each_run_with_a_stable_id() -> None:
    feed = ical_feed("h", nights(0, 0, 1, 0)).decode()
    grown = ical_feed("h", nights(0, 0, 1, 0, 0)).decode()
    assert feed.count("SUMMARY:CLOSED - Not available") == feed.count("BEGIN:VEVENT") == 2
    ids = [line for line in feed.splitlines() if line.startswith("UID")]
    assert ids == [line for line in grown.splitlines() if line.startswith("UID")]
    assert len(set(ids)) == 2
    assert not set(ids) & set(ical_feed("other", nights(0, 0, 1, 0)).decode().splitlines())


def test_equal_nights_give_equal_bytes() -> None:
    assert ical_feed("h", nights(0, 1)) == ical_feed("h", reversed(nights(0, 1)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no xml",
        b"<a/>",
        xml(""),
        xml("<AvailStatusMessages/>"),
        xml(availability("2027-03-02", "2027-03-01")),
        xml(availability("0001-01-01", "9999-12-31")),
        xml(availability("9999-12-31", "9999-12-31")),
        xml(availability("2027-02-29", "2027-03-01")),
        xml(availability("2027-W09-1", "2027-03-01")),
        xml(availability("2027-03-01", "2027-03-01", limit="-1")),
        xml(availability("2027-03-01", "2027-03-01", limit="9" * 5_000)),
        xml(availability("2027-03-01", "2027-03-01") * 2),
        xml('<AvailStatusMessages HotelCode="h"><Other/></AvailStatusMessages>'),
        b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + xml(availability("2027-03-01", "2027-03-01", limit="&e;")),
        b"<!DOCTYPE a>" + xml(availability("2027-03-01", "2027-03-01")),
    ],
)
def test_alpine_refuses_what_is_no_calendar(body: bytes) -> None:
    with pytest.raises(ShapeError):
        read_alpine(body)


def test_alpine_passes_over_comments() -> None:
    commented = xml(availability("2027-03-01", "2027-03-01")).replace(b"<AvailStatusMessage ", b"<!-- seen --><AvailStatusMessage ")
    assert read_alpine(commented).free == {FIRST_NIGHT: 1}


def test_a_text_that_swells_when_it_is_read_is_refused_at_once() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "{"x" * 100}">{entities}]><a b="&e11;">&e11;</a>'
    with pytest.raises(ShapeError):
        read_alpine(bomb.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"date": "2027-03-01", "free": 1}]',
        b'[{"date": "2027-02-29", "free": 1, "price": "1.00"}]',
        b'[{"date": "2027-03-01", "free": -1, "price": "1.00"}]',
        b'[{"date": "2027-03-01", "free": 1, "price": "1.5"}]',
        b'[{"date": "2027-03-01", "free": 1, "price": "1.00", "more": 1}]',
        b"\xff",
        b"[" + b",".join([b'{"date": "2027-03-01", "free": 1, "price": "1.00"}'] * (MOST_NIGHTS + 1)) + b"]",
    ],
)
def test_nimbus_refuses_what_is_no_list_of_nights(body: bytes) -> None:
    with pytest.raises(ShapeError):
        read_nimbus(body)


@pytest.mark.parametrize(
    "event",
    [
        "DTSTART;VALUE=DATE:20270301",
        "DTSTART;VALUE=DATE:20270302\r\nDTEND;VALUE=DATE:20270301",
        "DTSTART;VALUE=DATE:20270301\r\nDTEND;VALUE=DATE:20270302\r\nRRULE:FREQ=DAILY",
        "DTSTART:20270301T100000Z\r\nDTEND:20270302T100000Z",
        "DTSTART;VALUE=DATE:nonsense\r\nDTEND;VALUE=DATE:20270302",
        "DTSTART;VALUE=DATE:00010101\r\nDTEND;VALUE=DATE:99991231",
        "no colon",
    ],
)
def test_ical_refuses_an_event_that_is_not_one_period_of_days(event: str) -> None:
    with pytest.raises(ShapeError):
        read_ical(f"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n{event}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n".encode())


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"BEGIN:VCALENDAR\r\n{text}\r\nEND:VCALENDAR".encode()))
def test_no_bytes_make_a_reader_fail_otherwise_than_by_refusing(body: bytes) -> None:
    for read in (read_alpine, read_nimbus, read_ical):
        try:
            read(body)
        except ShapeError:
            pass
