"""The back office's own database: properties, bookings, rates, and where each property is on sale."""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Self

from msgspec import Struct

DAY: Final = dt.timedelta(days=1)

# No AUTOINCREMENT and no triggers: ids come from the back office, so a replayed action is recognised by its id.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS property (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, units INTEGER NOT NULL CHECK (units >= 0),
    cents INTEGER NOT NULL CHECK (cents >= 0), first_night TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS booking (
    id INTEGER PRIMARY KEY, property_id INTEGER NOT NULL REFERENCES property (id),
    arrival TEXT NOT NULL, departure TEXT NOT NULL CHECK (departure > arrival),
    guests INTEGER NOT NULL, cents INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'booked' CHECK (status IN ('booked', 'cancelled')));
CREATE INDEX IF NOT EXISTS booking_by_stay ON booking (property_id, departure, arrival) WHERE status = 'booked';
CREATE TABLE IF NOT EXISTS rate (
    property_id INTEGER NOT NULL REFERENCES property (id), night TEXT NOT NULL,
    cents INTEGER NOT NULL CHECK (cents >= 0), PRIMARY KEY (property_id, night)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS listing (
    channel TEXT NOT NULL, listing TEXT NOT NULL, property_id INTEGER NOT NULL REFERENCES property (id),
    window_days INTEGER NOT NULL CHECK (window_days > 0), rates INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed')),
    PRIMARY KEY (channel, listing)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS listing_by_property ON listing (property_id);
CREATE TABLE IF NOT EXISTS push_log (
    message_id TEXT PRIMARY KEY, channel TEXT NOT NULL, listing TEXT NOT NULL,
    sent_at REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 1,
    status TEXT NOT NULL DEFAULT 'sent' CHECK (status IN ('sent', 'ok', 'refused')),
    code TEXT, confirmed_at REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS push_by_status ON push_log (status, sent_at);
"""


class Night(Struct, frozen=True):
    """One night of a property: how many units are left, never below 0, and what one costs."""

    date: dt.date
    free: int
    cents: int


class Property(Struct, frozen=True):
    """Something that is let by the night: so many units of one kind, on sale from `first_night` on."""

    id: int
    name: str
    units: int
    cents: int
    first_night: dt.date


class Listing(Struct, frozen=True):
    """A property's page on one channel, which shows `window_days` nights and, where `rates`, their price."""

    channel: str
    listing: str
    property_id: int
    window_days: int = 90
    rates: bool = False
    status: Literal["open", "closed"] = "open"


class Push(Struct, frozen=True):
    """What became of one message to a channel: sent, then confirmed as ok or refused."""

    message_id: str
    channel: str
    listing: str
    sent_at: float
    attempts: int
    status: Literal["sent", "ok", "refused"]
    code: str | None
    confirmed_at: float | None


class PropertyDatabase:
    """One SQLite file that threads and processes may share; every method is one short transaction."""

    def __init__(self, path: str | Path, *, patience: float = 10.0) -> None:
        self.path: Final = Path(path)
        self._patience = patience
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = self._connect()
        # A connection must not cross a fork (SQLite says so): the child opens its own when it first needs one.
        this: weakref.ref[PropertyDatabase] = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _leave_behind(this))

    def create(self, property_id: int, name: str, units: int, cents: int, first_night: dt.date) -> None:
        """Add a property, or give the one with this id a new name, size and usual price."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO property VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " name = excluded.name, units = excluded.units, cents = excluded.cents, first_night = excluded.first_night",
                (property_id, name, units, cents, first_night.isoformat()),
            )

    def offer(self, listing: Listing) -> None:
        """Put a property on sale on a channel, or change the terms of that; any name of a channel will do."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO listing VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (channel, listing) DO UPDATE SET"
                " property_id = excluded.property_id, window_days = excluded.window_days, rates = excluded.rates,"
                " status = excluded.status",
                (listing.channel, listing.listing, listing.property_id, listing.window_days, listing.rates, listing.status),
            )

    def book(self, booking_id: int, property_id: int, arrival: dt.date, departure: dt.date, guests: int = 1, cents: int = 0) -> bool:
        """Take a booking, also above the number of units; False where this id was booked before."""
        with self._transaction() as db:
            return (
                db.execute(
                    "INSERT INTO booking VALUES (?, ?, ?, ?, ?, ?, 'booked') ON CONFLICT (id) DO NOTHING",
                    (booking_id, property_id, arrival.isoformat(), departure.isoformat(), guests, cents),
                ).rowcount
                == 1
            )

    def cancel(self, booking_id: int) -> bool:
        """Return a booking's nights back; False where it is unknown or was cancelled before."""
        with self._transaction() as db:
            return db.execute("UPDATE booking SET status = 'cancelled' WHERE id = ? AND status = 'booked'", (booking_id,)).rowcount == 1

    def set_rate(self, property_id: int, first: dt.date, nights: int, cents: int) -> None:
        """Set the price of so many nights."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO rate VALUES (?, ?, ?) ON CONFLICT (property_id, night) DO UPDATE SET cents = excluded.cents",
                [(property_id, (first + n * DAY).isoformat(), cents) for n in range(nights)],
            )

    def availability(self, property_id: int, first: dt.date, nights: int) -> list[Night]:
        """Read what is left of each night and what it costs, all of one moment; LookupError for an unknown property."""
        until = first + nights * DAY
        span = (property_id, first.isoformat(), until.isoformat())
        with self._transaction("DEFERRED") as db:
            offer = db.execute("SELECT units, cents FROM property WHERE id = ?", (property_id,)).fetchone()
            if offer is None:
                raise LookupError(f"property {property_id} is unknown")
            stays = db.execute(
                "SELECT arrival, departure FROM booking WHERE property_id = ? AND status = 'booked' AND departure > ? AND arrival < ?", span
            ).fetchall()
            rates = dict(db.execute("SELECT night, cents FROM rate WHERE property_id = ? AND night >= ? AND night < ?", span).fetchall())
        units, usual = offer
        # Arrivals and departures are counted at the edges only, so a night costs the same whatever the number of bookings.
        change = [0] * (nights + 1)
        for arrival, departure in stays:
            change[max(0, (dt.date.fromisoformat(arrival) - first).days)] += 1
            change[min(nights, (dt.date.fromisoformat(departure) - first).days)] -= 1
        taken, answer = 0, list[Night]()
        for n in range(nights):
            taken += change[n]
            date = first + n * DAY
            answer.append(Night(date, max(0, units - taken), rates.get(date.isoformat(), usual)))
        return answer

    def expected(self, listing: Listing) -> list[Night]:
        """Read the nights that this listing must show now: its window from the property's first night on."""
        row = self._read("SELECT first_night FROM property WHERE id = ?", (listing.property_id,))
        if not row:
            raise LookupError(f"property {listing.property_id} is unknown")
        return self.availability(listing.property_id, dt.date.fromisoformat(row[0][0]), listing.window_days)

    def properties(self) -> list[Property]:
        """List every property, by id."""
        return [
            Property(id_, name, units, cents, dt.date.fromisoformat(first))
            for id_, name, units, cents, first in self._read("SELECT id, name, units, cents, first_night FROM property ORDER BY id")
        ]

    def listings(self, property_id: int) -> list[Listing]:
        """List where a property is on sale now: open listings only, by channel."""
        return [listing for listing in self._listings("WHERE property_id = ?", property_id) if listing.status == "open"]

    def every_listing(self) -> list[Listing]:
        """List what is or was on sale anywhere, closed listings too."""
        return self._listings("")

    def sent(self, message_id: str, channel: str, listing: str) -> int:
        """Note that a push is about to leave, so that its confirmation finds it; gives the number of attempts."""
        with self._transaction() as db:
            return db.execute(
                "INSERT INTO push_log (message_id, channel, listing, sent_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (message_id) DO UPDATE SET attempts = attempts + 1 RETURNING attempts",
                (message_id, channel, listing, time.time()),
            ).fetchone()[0]

    def confirm(self, message_id: str, status: Literal["ok", "refused"], code: str | None = None) -> bool:
        """Note what a channel made of a push; a listing refused with E410 is closed. False if unknown or known before."""
        with self._transaction() as db:
            first = db.execute(
                "UPDATE push_log SET status = ?, code = ?, confirmed_at = ?"
                " WHERE message_id = ? AND status = 'sent' RETURNING channel, listing",
                (status, code, time.time(), message_id),
            ).fetchall()
            if first and code == "E410":
                db.execute("UPDATE listing SET status = 'closed' WHERE channel = ? AND listing = ?", first[0])
        return bool(first)

    def pushes(self, status: Literal["sent", "ok", "refused"] | None = None, *, before: float | None = None) -> list[Push]:
        """List the pushes, oldest first: all, or of one status, or sent before a moment (epoch seconds)."""
        rows = self._read(
            "SELECT message_id, channel, listing, sent_at, attempts, status, code, confirmed_at FROM push_log"
            " WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR sent_at < ?2) ORDER BY sent_at",
            (status, before),
        )
        return [Push(*row) for row in rows]

    def forget_pushes(self, before: float) -> int:
        """Drop the confirmed pushes that were sent before a moment, so that the log does not grow for ever."""
        with self._transaction() as db:
            return db.execute("DELETE FROM push_log WHERE status <> 'sent' AND sent_at < ?", (before,)).rowcount

    def close(self) -> None:
        """Let go of the file; the database is not used afterwards."""
        with self._lock:
            self._open().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listings(self, where: str, *values: object) -> list[Listing]:
        rows = self._read(
            f"SELECT channel, listing, property_id, window_days, rates, status FROM listing {where} ORDER BY channel, listing", values
        )
        return [Listing(channel, listing, of, days, bool(rates), status) for channel, listing, of, days, rates, status in rows]

    def _read(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock:
            return self._open().execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Generator[sqlite3.Connection]:
        # IMMEDIATE takes the write lock at the start: a transaction that reads first could otherwise fail
        # with "database is locked" however long the busy timeout is.
        with self._lock:
            db = self._open()
            db.execute(f"BEGIN {kind}")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk has rolled back by itself
                    db.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=self._patience, isolation_level=None, check_same_thread=False)
        # Going over to WAL does not honour the busy timeout when several processes create the file together.
        deadline = time.monotonic() + self._patience
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'push_by_status'").fetchone() is None:
            db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}COMMIT;")
        return db

    def leave_behind(self) -> None:
        """Stop using the connection of the parent process; called by itself after a fork."""
        # It is kept alive, unused: closing it here could end the parent's locks.
        _inherited.append(self._connection)
        self._lock = threading.Lock()
        self._connection = None


_inherited: Final[list[sqlite3.Connection | None]] = []


def _leave_behind(this: weakref.ref[PropertyDatabase]) -> None:
    database = this()
    if database is not None:
        database.leave_behind()
