"""What each channel wants a calendar to look like: pure functions from nights to bytes, and back."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, cast

import msgspec
from icalendar import Calendar, Event
from lxml import etree as _etree  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
from msgspec import Meta, Struct

from channel_manager.property import DAY, Night

etree: Final[Any] = cast("Any", _etree)  # lxml brings no types

OTA: Final = "http://www.opentravel.org/OTA/2003/05"
CLOSED: Final = "CLOSED - Not available"
MOST_NIGHTS: Final = 1_000
# When a feed is made says nothing about it: with a fixed stamp equal nights give equal bytes, and so one ETag.
STAMP: Final = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_COUNT: Final = re.compile(r"\d{1,6}", re.ASCII)


class ShapeError(ValueError):
    """What came in is not a calendar of this channel; the text says why."""


class FreeRooms(Struct, frozen=True):
    """An AlpineBits message read: units left by date; `complete` means that other dates are not on sale."""

    hotel_code: str
    complete: bool
    free: dict[dt.date, int]


class Delta(Struct, frozen=True, forbid_unknown_fields=True):
    """One changed night as nimbus wants it: the price is a decimal text, so that no cent is lost."""

    date: dt.date
    free: Annotated[int, Meta(ge=0, le=999_999)]
    price: Annotated[str, Meta(pattern=r"^[0-9]{1,9}\.[0-9]{2}$")]

    @property
    def cents(self) -> int:
        """The price as a whole number of cents."""
        return int(self.price.replace(".", ""))


def price(cents: int) -> str:
    """Write cents as a decimal text: 8550 → "85.50"."""
    return f"{cents // 100}.{cents % 100:02}"


def free_runs(nights: Iterable[Night]) -> list[tuple[dt.date, dt.date, int]]:
    """Join neighbouring nights with equally many free units: (first night, last night, free); a date twice is refused."""
    ordered = sorted(nights, key=lambda night: night.date)
    for one, other in pairwise(ordered):
        if one.date == other.date:
            raise ValueError(f"{one.date} is there twice")
    joined = list[tuple[dt.date, dt.date, int]]()
    for night in ordered:
        if joined and joined[-1][2] == night.free and joined[-1][1] + DAY == night.date:
            joined[-1] = (joined[-1][0], night.date, night.free)
        else:
            joined.append((night.date, night.date, night.free))
    return joined


# alpine: AlpineBits 2018-10 FreeRooms, always the complete set


def alpine_request(listing: str, nights: Iterable[Night]) -> bytes:
    """Return the OTA_HotelAvailNotifRQ that replaces the whole calendar of a listing."""
    root = etree.Element(f"{{{OTA}}}OTA_HotelAvailNotifRQ", nsmap={None: OTA}, Version="1.002")
    etree.SubElement(root, f"{{{OTA}}}UniqueID", Type="16", ID="1", Instance="CompleteSet")
    messages = etree.SubElement(root, f"{{{OTA}}}AvailStatusMessages", HotelCode=listing)
    joined = free_runs(nights)
    for first, last, free in joined:
        message = etree.SubElement(
            messages, f"{{{OTA}}}AvailStatusMessage", BookingLimit=str(free), BookingLimitMessageType="SetLimit", BookingThreshold="0"
        )
        etree.SubElement(message, f"{{{OTA}}}StatusApplicationControl", Start=first.isoformat(), End=last.isoformat(), InvTypeCode="unit")
    if not joined:  # the schema wants one message; an empty one says that nothing is on sale
        etree.SubElement(messages, f"{{{OTA}}}AvailStatusMessage")
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def read_schema(path: Path) -> Any:
    """Load the AlpineBits schema for `read_alpine`."""
    return etree.XMLSchema(etree.parse(str(path), _parser()))


def read_alpine(body: bytes, schema: Any = None) -> FreeRooms:
    """Read what `alpine_request` writes, from anybody: no entity is resolved, nothing is fetched, sizes are bounded."""
    try:
        root = etree.fromstring(body, _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        raise ShapeError(f"not XML: {error}") from None
    if root.getroottree().docinfo.doctype:
        raise ShapeError("a document type is not accepted")
    if schema is not None and not schema.validate(root):
        raise ShapeError(f"invalid: {schema.error_log.last_error.message}")
    # The structure is checked even when the schema was: it does not bound ranges, nor is it always at hand.
    if root.tag != f"{{{OTA}}}OTA_HotelAvailNotifRQ" or "Version" not in root.attrib:
        raise ShapeError(f"expected OTA_HotelAvailNotifRQ with a Version, not {root.tag}")
    messages = root.findall(f"{{{OTA}}}AvailStatusMessages")
    if len(messages) != 1 or not messages[0].get("HotelCode") or len(messages[0]) == 0:
        raise ShapeError("expected one AvailStatusMessages with a HotelCode and messages in it")
    free = dict[dt.date, int]()
    for message in messages[0]:
        if message.tag != f"{{{OTA}}}AvailStatusMessage":
            raise ShapeError(f"expected AvailStatusMessage, not {message.tag}")
        for applies in message:
            first, last = _date(applies.get("Start")), _date(applies.get("End"))
            limit = message.get("BookingLimit") or ""
            if applies.tag != f"{{{OTA}}}StatusApplicationControl" or not _COUNT.fullmatch(limit):
                raise ShapeError("expected StatusApplicationControl within a BookingLimit")
            # The last day that there is has no day after it.
            for date in _dates(first, min(last, dt.date.max - DAY) + DAY, free):
                free[date] = int(limit)
    unique = root.find(f"{{{OTA}}}UniqueID")
    complete = unique is not None and unique.get("Instance") == "CompleteSet"
    return FreeRooms(messages[0].get("HotelCode"), complete, free)


def alpine_answer(error: str | None = None) -> bytes:
    """Return the OTA_HotelAvailNotifRS: Success, or Errors with the reason."""
    root = etree.Element(f"{{{OTA}}}OTA_HotelAvailNotifRS", nsmap={None: OTA}, Version="1.001")
    if error is None:
        etree.SubElement(root, f"{{{OTA}}}Success")
    else:
        errors = etree.SubElement(root, f"{{{OTA}}}Errors")
        # A reason may quote what somebody sent; XML cannot hold control characters.
        etree.SubElement(errors, f"{{{OTA}}}Error", Type="13", Code="450").text = "".join(char for char in error if char.isprintable())
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


# nimbus: only the nights that are in the message, with their price


def nimbus_deltas(nights: Iterable[Night]) -> bytes:
    """Return a JSON list with the date, the free units and the price of these nights."""
    return msgspec.json.encode([Delta(night.date, night.free, price(night.cents)) for night in nights])


_DELTAS: Final = msgspec.json.Decoder(Annotated[list[Delta], Meta(max_length=MOST_NIGHTS)])


def read_nimbus(body: bytes) -> list[Delta]:
    """Read what `nimbus_deltas` writes, from anybody: types, ranges and length are checked."""
    try:
        return _DELTAS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ShapeError(str(error)) from None


# ical: a feed of the closed periods


def ical_feed(listing: str, nights: Iterable[Night], stamp: dt.datetime = STAMP) -> bytes:
    """Return a VCALENDAR with one event per run of nights that have nothing free; equal nights give equal bytes."""
    calendar = cast("Any", Calendar())  # its `add` takes values of no declared type
    calendar.add("version", "2.0")
    calendar.add("prodid", "-//Chappe//channel_manager//EN")
    calendar.add("calscale", "GREGORIAN")
    calendar.add("method", "PUBLISH")
    for first, last, free in free_runs(nights):
        if free > 0:
            continue
        event = cast("Any", Event())
        # By its first night only: a period that grows at its end stays the same event.
        event.add("uid", f"{hashlib.sha256(f'{listing}/{first}'.encode()).hexdigest()[:32]}@channel-manager.example")
        event.add("dtstamp", stamp)
        event.add("dtstart", first)
        event.add("dtend", last + DAY)
        event.add("summary", CLOSED)
        calendar.add_component(event)
    return cast("bytes", calendar.to_ical())


def is_ical(body: bytes) -> bool:
    """Tell at a glance whether this could be a feed: whole, and not too long; `read_ical` has the last word."""
    return (
        body.startswith(b"BEGIN:VCALENDAR")
        and body.rstrip().endswith(b"END:VCALENDAR")
        and body.count(b"BEGIN:VEVENT") == body.count(b"END:VEVENT") <= MOST_NIGHTS
    )


def read_ical(body: bytes) -> frozenset[dt.date]:
    """Read the closed dates of a feed, from anybody: whole days only, no repetition, sizes are bounded."""
    if not is_ical(body):
        raise ShapeError("not a VCALENDAR")
    closed = dict[dt.date, int]()
    try:
        for event in cast("Any", Calendar.from_ical(body)).walk("VEVENT"):
            start, end = event.decoded("dtstart"), event.decoded("dtend")
            if "rrule" in event or not _whole_day(start) or not _whole_day(end):
                raise ShapeError("an event must be one period of whole days")
            closed.update(dict.fromkeys(_dates(start, end, closed), 0))
    except ShapeError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:  # what the library answers to nonsense
        raise ShapeError(f"not a VCALENDAR: {error}") from None
    return frozenset(closed)


def _whole_day(moment: object) -> bool:
    return isinstance(moment, dt.date) and not isinstance(moment, dt.datetime)


def _parser() -> Any:
    # One for each message: a parser keeps what it has seen, such as a document's entities.
    return etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False, remove_comments=True, remove_pis=True)


def _date(text: str | None) -> dt.date:
    if text is None or not _DATE.fullmatch(text):  # fromisoformat alone also takes weeks and basic format
        raise ShapeError(f"{text!r} is not a date")
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise ShapeError(f"{text!r} is not a date: {error}") from None


def _dates(first: dt.date, until: dt.date, taken: dict[dt.date, int]) -> list[dt.date]:
    nights = (until - first).days
    if nights < 1 or len(taken) + nights > MOST_NIGHTS:
        raise ShapeError(f"{first}..{until}: a period has 1 night or more, a calendar at most {MOST_NIGHTS}")
    dates = [first + n * DAY for n in range(nights)]
    if not taken.keys().isdisjoint(dates):
        raise ShapeError(f"{first}..{until} overlaps another period")
    return dates
