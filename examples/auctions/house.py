"""The auction house's own books: a database that is not Chappe's, in which each bid is decided once."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

_SCHEMA = """
    create table if not exists auction (
        id text primary key, item text not null, opening integer not null, ends_at real not null, price integer, leader text,
        bids integer not null default 0, closed integer not null default 0
    );
    create table if not exists participant (auction text not null, bidder text not null, primary key (auction, bidder));
    create table if not exists decision (
        id text primary key, auction text not null, bidder text not null, cents integer not null, reason text, bids integer not null
    );
"""


class Decision(Struct, frozen=True):
    """What became of a bid: taken if there is no `reason`; `bids` counts those that were taken so far."""

    reason: str | None
    bids: int


class Lot(Struct, frozen=True):
    """An auction as it stands."""

    id: str
    item: str
    opening: int
    ends_at: float
    price: int | None
    leader: str | None
    bids: int
    closed: bool


class House:
    """The books; one for each process, used by the threads of its handlers."""

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    def open(self, auction: str, item: str, opening: int, ends_at: float) -> Lot:
        """Offer an item, once."""
        with self._lock:
            self._db.execute(
                "insert or ignore into auction (id, item, opening, ends_at) values (?, ?, ?, ?)", (auction, item, opening, ends_at)
            )
            return self._lot(auction)

    def join(self, auction: str, bidder: str) -> None:
        """Add a participant; raises `KeyError` where there is no such auction."""
        with self._lock:
            self._lot(auction)
            self._db.execute("insert or ignore into participant values (?, ?)", (auction, bidder))

    def decide(self, bid: str, auction: str, bidder: str, cents: int, at: float) -> Decision:
        """Take a bid or refuse it; one that was decided already stays as it was."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                decision = self._decision(bid)
                if decision is None:
                    decision = self._decide(bid, auction, bidder, cents, at)
                self._db.execute("commit")
            except BaseException:
                self._db.execute("rollback")
                raise
            return decision

    def _decide(self, bid: str, auction: str, bidder: str, cents: int, at: float) -> Decision:
        lot = self._lot(auction)
        reason, taken = refusal(lot, cents, at), lot.bids
        if reason is None:
            taken += 1
            self._db.execute("update auction set price = ?, leader = ?, bids = ? where id = ?", (cents, bidder, taken, auction))
        self._db.execute("insert into decision values (?, ?, ?, ?, ?, ?)", (bid, auction, bidder, cents, reason, taken))
        return Decision(reason, taken)

    def decision(self, bid: str) -> Decision:
        """Return what became of a bid that was decided."""
        with self._lock:
            found = self._decision(bid)
        assert found is not None, "the handler before this one decides it"
        return found

    def close(self, auction: str) -> Lot:
        """Let nobody bid any more."""
        with self._lock:
            self._db.execute("update auction set closed = 1 where id = ?", (auction,))
            return self._lot(auction)

    def lots(self) -> list[Lot]:
        """Return all auctions."""
        with self._lock:
            return [_lot_of(row) for row in self._db.execute("select * from auction order by id").fetchall()]

    def _lot(self, auction: str) -> Lot:
        row = self._db.execute("select * from auction where id = ?", (auction,)).fetchone()
        if row is None:
            raise KeyError(auction)
        return _lot_of(row)

    def _decision(self, bid: str) -> Decision | None:
        row = self._db.execute("select reason, bids from decision where id = ?", (bid,)).fetchone()
        return None if row is None else Decision(*row)


def refusal(lot: Lot, cents: int, at: float) -> str | None:
    """Say why a bid is not taken, or nothing."""
    if lot.closed or at >= lot.ends_at:
        return "the auction is over"
    if lot.price is None:
        return f"bids begin at {money(lot.opening)}" if cents < lot.opening else None
    return f"the price is {money(lot.price)} already" if cents <= lot.price else None


def money(cents: int) -> str:
    """Write an amount for people."""
    return f"${cents // 100:,}.{cents % 100:02}"


def _lot_of(row: tuple[str, str, int, float, int | None, str | None, int, int]) -> Lot:
    return Lot(*row[:7], bool(row[7]))
