"""How many processes a pool needs so that no message waits longer than it may. Pure.

So many slots are needed as messages arrive while one runs, and so many more as finish what waits within the time that is allowed.
It grows at once, and shrinks to the largest number that was wanted within the last minute.
"""

from __future__ import annotations

import collections
import math
from typing import Final

from msgspec import Struct

KEPT: Final = 60.0  # seconds for which a number that was wanted is kept
BAND: Final = 0.1  # what differs by less than this part of the processes changes nothing


class Load(Struct, frozen=True):
    """What is asked of a pool: arrivals a second, what is ready, seconds that a message runs, and seconds that the oldest has waited."""

    arrivals: float = 0.0
    ready: int = 0
    seconds: float = 0.0
    oldest: float | None = None


def slots_for(load: Load, max_wait: float) -> int:
    """Return how many slots a load needs."""
    needed = math.ceil(load.arrivals * load.seconds + load.ready * load.seconds / max_wait - 1e-9)
    return max(needed, 1 if load.ready else 0)


class Decision(Struct, frozen=True):
    """How many processes there are to be, how many this moment alone wants, and why these differ."""

    count: int
    wanted: int
    why: str


class Autoscale:
    """The decisions about one pool."""

    def __init__(self) -> None:
        self._wanted: collections.deque[tuple[float, int]] = collections.deque()

    def decide(
        self, now: float, load: Load, count: int, *, slots: int, max_wait: float, bounds: tuple[int, int], is_governed: bool = False
    ) -> Decision:
        """Return how many processes of so many slots there are to be in place of `count`.

        More would do no good while the governor is what limits the work.
        """
        least, most = bounds
        wanted = min(most, max(least, math.ceil(slots_for(load, max_wait) / slots)))
        recent = self._wanted
        if not recent:
            recent.append((now, min(most, count)))
        while recent and recent[0][0] < now - KEPT:
            recent.popleft()
        recent.append((now, wanted))
        count = min(most, max(least, count))
        peak = max(value for _, value in recent)
        if abs(wanted - count) < BAND * count:
            return Decision(count, wanted, "within a tenth of what there is")
        if wanted > count:
            return Decision(count, wanted, "held by the governor") if is_governed else Decision(wanted, wanted, "more is needed")
        if peak < count:
            return Decision(peak, wanted, "less was needed for a minute")
        return Decision(count, wanted, "" if wanted == count else "more was needed within the last minute")
