"""How often something may start: the generic cell rate algorithm (ITU-T I.371), which gives no places in a line. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

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
