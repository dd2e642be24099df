"""How often something may start: the generic cell rate algorithm (ITU-T I.371), which gives no places in a line. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct, msgpack

from chappe.engines.learning import Learned

_MOST: Final = 1000  # starts that are looked for at once


class Budget(NamedTuple):
    """One start for each `interval` seconds and `burst` at once; `arrival` is when the next is due, before `closed` there is none."""

    arrival: float = 0.0
    interval: float = 1.0
    burst: int = 1
    closed: float = 0.0

    def opens(self, now: float) -> float:
        """Return when the next start may be."""
        return max(now, self.arrival - self.interval * (self.burst - 1), self.closed)

    def started(self, now: float, count: int = 1) -> Budget:
        """Return what is left after so many starts, each at the first moment that it may be."""
        return self._replace(arrival=max(self.arrival, self.closed, now) + count * self.interval)

    def room(self, now: float, until: float) -> int:
        """Return how many may start until then."""
        if self.opens(now) > until:
            return 0
        if self.interval <= 0:
            return _MOST
        return min(_MOST, max(1, int((until - max(self.arrival, self.closed, now)) // self.interval) + self.burst))


class Taught(NamedTuple):
    """A budget whose pace is learned, as engines keep it."""

    budget: Budget
    learned: Learned = Learned()

    @classmethod
    def of(cls, budget: Budget, learned: bytes | None) -> Taught:
        """Return the budget of a row, which may have taught nothing yet."""
        return cls(budget, _decode(learned) if learned is not None else Learned())

    def started(self, now: float) -> Taught:
        """Return what is known after a start."""
        learned = self.learned.started(self.budget.opens(now))
        budget = self.budget._replace(interval=learned.interval, burst=1).started(now)
        return Taught(budget._replace(closed=max(budget.closed, learned.closed)), learned)

    def refused(self, now: float, until: float | None) -> Taught:
        """Return what is known after a start was refused, until a time or for nobody knows how long."""
        learned = self.learned.refused(now, None if until is None else max(0.0, until - now))
        return Taught(Budget(0.0, learned.interval, 1, learned.closed), learned)

    @property
    def kept(self) -> bytes:
        """What is to be kept beside the budget."""
        return msgpack.encode(self.learned)


_decode: Final = msgpack.Decoder(Learned).decode


class BudgetStatus(Struct, frozen=True):
    """How often something may start now: once in `interval` seconds, `burst` at once, and next in `opens` seconds.

    Of a budget that is learned, `limit` starts were found to be allowed in `window` seconds at the time `since`, of which some are `left`;
    nothing of it is known before something was refused.
    """

    name: str
    opens: float
    interval: float
    burst: int = 1
    is_learned: bool = False
    limit: int | None = None
    window: float | None = None
    since: float | None = None
    left: int | None = None


def status_of(name: str, budget: Budget, kept: bytes | None, now: float) -> BudgetStatus:
    """Return what is to be shown of a budget."""
    opens = budget.opens(now) - now
    if kept is None:
        return BudgetStatus(name, opens, budget.interval, budget.burst)
    learned = _decode(kept)
    if not learned.limit:
        return BudgetStatus(name, opens, budget.interval, budget.burst, is_learned=True)
    limit = round(learned.limit)
    left = max(0, limit - learned.count(now - learned.window))
    return BudgetStatus(name, opens, budget.interval, 1, True, limit, learned.window, learned.since, left)
