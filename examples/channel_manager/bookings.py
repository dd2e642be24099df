"""A day in the back office, for ever again: real bookings replayed as what its staff would do."""

from __future__ import annotations

import csv
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal
from zlib import crc32

from msgspec import Struct

from channel_manager.property import DAY, Listing, PropertyDatabase

FIRST_NIGHT: Final = dt.date(2027, 3, 1)
HORIZON_DAYS: Final = 90
PROPERTIES: Final = 40
USUAL_CENTS: Final = 9_000

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"), 1
    )
}
# Any fixed day would do: it only decides where in the horizon a real date falls.
_EPOCH: Final = dt.date(2015, 7, 1)


class BackOfficeAction(Struct, frozen=True):
    """What somebody in the back office does on one real day: takes a booking, cancels it, or sets a price.

    For "rate" the stay `arrival`..`departure` is the period whose price per night becomes `cents`.
    """

    kind: Literal["book", "cancel", "rate"]
    booking_id: int
    property_id: int
    arrival: dt.date
    departure: dt.date
    guests: int
    cents: int
    real_day: dt.date


class _Row(Struct, frozen=True):
    booking: BackOfficeAction
    cancelled: dt.date | None


def shared_folder() -> Path | None:
    """Find the project's folder of real data: `CHAPPE_SHARED`, or `shared` beside the repository."""
    named = os.environ.get("CHAPPE_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2].parent / "shared"
    return folder if folder.is_dir() else None


def find_schema() -> Path | None:
    """Find the AlpineBits schema in the shared data, if there is any."""
    shared = shared_folder()
    schema = shared / "data/hotel/alpinebits/v_2018_10/alpinebits.xsd" if shared else None
    return schema if schema and schema.is_file() else None


def find_bookings() -> Path:
    """Find the real bookings in the shared data, or else our invented sample."""
    shared = shared_folder()
    real = shared / "data/hotel/hotel_bookings_resort.csv" if shared else None
    return real if real and real.is_file() else Path(__file__).with_name("sample_bookings.csv")


def open_properties(database: PropertyDatabase, count: int = PROPERTIES) -> None:
    """Create the properties that the replay books, each on sale on three channels."""
    for number in range(1, count + 1):
        database.create(number, f"House {number}", 4 + number % 8, USUAL_CENTS, FIRST_NIGHT)
        database.offer(Listing("alpine", f"alpine-{number}", number, HORIZON_DAYS))
        database.offer(Listing("nimbus", f"nimbus-{number}", number, 60, rates=True))
        database.offer(Listing("ical", f"ical-{number}", number, HORIZON_DAYS))


def apply(database: PropertyDatabase, action: BackOfficeAction) -> bool:
    """Do it in the database; False where a booking had been made or cancelled before."""
    match action.kind:
        case "book":
            return database.book(action.booking_id, action.property_id, action.arrival, action.departure, action.guests, action.cents)
        case "cancel":
            return database.cancel(action.booking_id)
        case "rate":
            database.set_rate(action.property_id, action.arrival, (action.departure - action.arrival).days, action.cents)
            return True


def replay(path: Path | None = None, *, properties: int = PROPERTIES) -> Iterator[BackOfficeAction]:
    """Return every action in the order of its real day; the same file always gives the same actions."""
    with (path or find_bookings()).open(newline="", encoding="utf-8-sig") as file:
        rows = [row for number, fields in enumerate(csv.DictReader(file), 1) if (row := _row(number, fields, properties))]
    happened = list[tuple[dt.date, int, int, BackOfficeAction]]()
    for row in rows:
        booked = row.booking
        happened.append((booked.real_day, booked.booking_id, 0, booked))
        if row.cancelled is not None:
            # Some real cancellations are dated before the booking; a booking must come first all the same.
            day = max(row.cancelled, booked.real_day)
            cancelled = BackOfficeAction(
                "cancel", booked.booking_id, booked.property_id, booked.arrival, booked.departure, booked.guests, booked.cents, day
            )
            happened.append((day, booked.booking_id, 1, cancelled))
    happened.sort(key=lambda one: one[:3])
    yield from _with_rates(action for *_, action in happened)


def _with_rates(actions: Iterator[BackOfficeAction]) -> Iterator[BackOfficeAction]:
    # The data has no price list, only what each guest paid: a price that moved by a tenth was a new price.
    known = dict[int, int]()
    for action in actions:
        before = known.get(action.property_id, USUAL_CENTS)
        if action.kind == "book" and action.cents > 0 and abs(action.cents - before) * 10 > before:
            known[action.property_id] = action.cents
            yield BackOfficeAction(
                "rate", action.booking_id, action.property_id, action.arrival, action.departure, 0, action.cents, action.real_day
            )
        yield action


def _row(number: int, fields: dict[str, str], properties: int) -> _Row | None:
    nights = int(fields["stays_in_weekend_nights"]) + int(fields["stays_in_week_nights"])
    if not 0 < nights < HORIZON_DAYS:  # a room used by day only has no night to sell
        return None
    real_arrival = dt.date(
        int(fields["arrival_date_year"]), _MONTHS[fields["arrival_date_month"]], int(fields["arrival_date_day_of_month"])
    )
    arrival = FIRST_NIGHT + (real_arrival - _EPOCH).days % (HORIZON_DAYS - nights + 1) * DAY
    # One agent sold a fifth of all rooms: without the week, one property would get them all.
    place = f"{fields['reserved_room_type']}/{fields['agent'].strip()}/{fields['arrival_date_week_number']}"
    booking = BackOfficeAction(
        kind="book",
        booking_id=number,
        property_id=1 + crc32(place.encode()) % properties,
        arrival=arrival,
        departure=arrival + nights * DAY,
        guests=max(1, sum(int(fields[kind]) for kind in ("adults", "children", "babies") if fields[kind].isdigit())),
        cents=max(0, round(float(fields["adr"]) * 100)),
        real_day=real_arrival - int(fields["lead_time"]) * DAY,
    )
    cancelled = _date(fields["reservation_status_date"]) if fields["reservation_status"] == "Canceled" else None
    return _Row(booking, cancelled)


def _date(text: str) -> dt.date:
    if "/" in text:
        month, day, year = text.split("/")
        return dt.date(int(year), int(month), int(day))
    return dt.date.fromisoformat(text)
