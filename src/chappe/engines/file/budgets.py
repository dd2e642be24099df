"""How often something may start, and the messages that wait until it may, each before those that came later."""

from __future__ import annotations

import heapq
from typing import Annotated, Any, Final

from msgspec import Meta

from chappe.bounds import STARTS_AHEAD, Number, Seconds
from chappe.engines.budget import Budget, BudgetStatus, Taught, status_of
from chappe.engines.file.turn import Turn
from chappe.engines.file.wire import Moment

_AT_ONCE: Final = 1000
_KNOWN = "select tat, interval, burst, closed, learned from budget where name = ?"
_STORE = "insert or replace into budget (name, tat, interval, burst, closed, learned) values (?, ?, ?, ?, ?, ?)"
_ALL = "select name, tat, interval, burst, closed, learned from budget order by name limit ?"
_BEFORE = "select 1 from delayed where queue = ? and budget = ? and (rank, id) < (?, ?) limit 1"
_FIRST = """select due, id, queue, rank, message_id, attempt, flags, key, note, envelope, budget
    from delayed where queue = ? and budget = ? order by rank, id limit ?"""
_NEXT = "select queue, budget from delayed where budget is not null and (queue, budget) > (?, ?) order by queue, budget limit 1"


class Budgets:
    """The budgets of one file; of what waits for them only each queue and budget is held in memory."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._waited: set[tuple[int, str]] = set()
        self._looks: list[tuple[float, int, str]] = []  # a heap: when to look at each of them

    def restart(self) -> None:
        """Find out what is waited for, by one look-up for each."""
        self._waited.clear()
        self._looks.clear()
        found: tuple[int, str] | None = (-1, "")
        while (found := self._turn.db.execute(_NEXT, found).fetchone()) is not None:
            self.wait(*found)

    def take(
        self, budget: str, interval: Seconds | None, burst: Annotated[int, Meta(ge=1, le=2**31 - 1)], within: Seconds, tag: Number
    ) -> tuple[bool, float]:
        """Take the next start if it is soon enough and nobody stands before; say whether, and in how many seconds it is."""
        now = self._turn.now()
        known, learned = self._row(budget)
        known = known if interval is None else known._replace(interval=interval, burst=burst)
        wait = known.opens(now) - now
        if wait > within or self._stands_behind(budget, tag):
            return False, wait
        if interval is None:
            taught = Taught.of(known if learned else Budget(interval=0.0), learned).started(now)
            self._store(budget, taught.budget, taught.kept)
        else:
            self._store(budget, known.started(now))
        return True, wait

    def throttle(self, budget: str, until: Moment | None) -> None:
        """Have no start be taken before a time; one that is learned says itself until when, if that is not known."""
        known, learned = self._row(budget)
        if learned is not None:
            taught = Taught.of(known, learned).refused(self._turn.now(), until)
            self._store(budget, taught.budget, taught.kept)
        elif until is not None:
            self._store(budget, known._replace(closed=max(known.closed, until)))

    def budgets(self, limit: Number) -> list[BudgetStatus]:
        """Return how all budgets are, by their names."""
        now = self._turn.now()
        return [status_of(name, Budget(*row), learned, now) for name, *row, learned in self._turn.db.execute(_ALL, (limit,))]

    def wait(self, queue: int, budget: str) -> None:
        """Note that a message of a queue waits for a budget."""
        if (queue, budget) not in self._waited:
            self._waited.add((queue, budget))
            self._look(self._known(budget), self._turn.now(), queue, budget)

    def open(self, now: float) -> list[Any]:
        """Return the messages that may start now or soon, as many as there is room for, larger priorities first."""
        rows: list[Any] = []
        while self._looks and self._looks[0][0] <= now and len(rows) < _AT_ONCE:
            _, queue, budget = heapq.heappop(self._looks)
            known = self._known(budget)
            room = known.room(now, now + STARTS_AHEAD)
            found = self._turn.db.execute(_FIRST, (queue, budget, room)).fetchall()
            rows += found
            if len(found) < room:
                self._waited.discard((queue, budget))
            else:
                self._look(known.started(now, room) if room else known, now, queue, budget)
        return rows

    def opens(self, budget: str) -> float:
        """Return when the next start may be."""
        return self._known(budget).opens(self._turn.now())

    def pace(self, budget: str) -> float:
        """Return the seconds from one start to the next."""
        return self._known(budget).interval

    @property
    def next(self) -> float:
        """When `open` may bring something."""
        return self._looks[0][0] if self._looks else float("inf")

    def _look(self, known: Budget, now: float, queue: int, budget: str) -> None:
        at = known.opens(now) - STARTS_AHEAD
        heapq.heappush(self._looks, (at, queue, budget))
        self._turn.due_at(at)

    def _stands_behind(self, budget: str, tag: int) -> bool:
        claim = self._turn.claims.get(tag)
        if claim is None or (claim.queue.id, budget) not in self._waited:
            return False
        return self._turn.db.execute(_BEFORE, (claim.queue.id, budget, claim.rank, claim.id)).fetchone() is not None

    def _known(self, budget: str) -> Budget:
        return self._row(budget)[0]

    def _row(self, budget: str) -> tuple[Budget, bytes | None]:
        row = self._turn.db.execute(_KNOWN, (budget,)).fetchone()
        return (Budget(), None) if row is None else (Budget(*row[:4]), row[4])

    def _store(self, name: str, budget: Budget, learned: bytes | None = None) -> None:
        self._turn.write()
        self._turn.db.execute(_STORE, (name, *budget, learned))
