"""How many slots the workers of a host may use, so that others are not slowed down: additive increase, multiplicative decrease. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

TICK: Final = 0.5  # seconds between two readings
CUT: Final = 0.7
AIM: Final = 0.91  # of the ceiling, up to which slots grow: what is measured swings
SPENT: Final = 97.0  # percent of the processors above which nobody knows how much too much it is
STALLED: Final = 0.4  # the part of the time in which somebody waited for a processor
HELD: Final = 5.0  # seconds after a deep cut in which nothing grows
BETWEEN: Final = 1.0  # seconds between two cuts: what one did shows a little later
SEEN: Final = 2.0  # the same where the probe says so: its latest answers are as old
GROWTH: Final = 0.03  # of all slots, in a second
_SINKS: Final = 0.1  # of the way to a faster answer of the probe, for each reading: one that was fast by luck is not its quiet value
_CHANCE: Final = 2.0  # times faster that an answer may be by luck; a host that just began is slower than that
_LEARNS: Final = 5.0  # seconds with as little at work as may be, whose mean is the quiet value: nothing of ours slows it then


class Reading(Struct, frozen=True):
    """What is seen of a host: percent of all processors, the part of the time in which somebody waited for one, and the probe's answer.

    `probe` are the seconds within which three quarters of the latest answers came.
    """

    cpu: float
    stalled: float | None = None
    probe: float | None = None


class Ruling(Struct, frozen=True):
    """How many slots may be used, and why; `slow` is the probe's answer in parts of its quiet value."""

    limit: int
    why: str
    slow: float | None = None


class Governor:
    """One for a host: each pool by itself would take what another has just given."""

    def __init__(self, cpu: float, slow: float) -> None:
        """Begin with few slots, so that the probe is seen on a quiet host; it is too slow above `slow` times what it takes then."""
        self._ceiling = cpu
        self._bearable = slow
        self._limit: float | None = None
        self._above = 0  # readings in a row with more than the ceiling
        self._cut_at = self._held_until = float("-inf")
        self._quiet: float | None = None
        self._slow = 0  # readings in a row with a slow probe
        self._rest: list[tuple[float, float]] = []  # when the probe was read, and what it took, since as little as may be is at work

    def rule(self, now: float, reading: Reading, *, busy: int, slots: int, least: int) -> Ruling:
        """Return how many of all slots may be used; `busy` are in use, and `least` are always allowed."""
        limit = max(least, 0.1 * slots) if self._limit is None else self._limit
        slow = self._slowness(now, reading.probe, rests=limit <= least and busy <= least)
        self._above = self._above + 1 if reading.cpu > self._ceiling else 0
        self._slow = self._slow + 1 if slow is not None and slow > self._bearable else 0
        stalled = reading.stalled is not None and reading.stalled > STALLED
        fault, between = self._fault(reading, slow, stalled)
        if fault and now - self._cut_at >= between:
            part = self._part(reading.cpu)
            limit = min(limit, max(busy, least)) * part  # what was allowed and not used is no relief
            self._cut_at, self._held_until = now, now + (HELD if part == CUT else between)
        elif fault or now < self._held_until:
            fault = fault or "held after a cut"
        elif self._above or self._slow or stalled:
            fault = f"no more: {'the probe is slow' if self._slow else 'the processors are busy'}"
        elif busy > (limit - least) / 2:  # of those that a pool without work keeps none is missed
            room = (AIM * self._ceiling - reading.cpu) * busy / max(1.0, reading.cpu)  # what runs takes no more than all that is taken
            limit += max(0.0, min(max(1.0, GROWTH * slots) * TICK, room))
        self._limit = max(float(least), min(float(slots), limit))
        return Ruling(int(self._limit), fault, None if slow is None else round(slow, 2))

    def _part(self, cpu: float) -> float:
        """Return which part of the slots stays: the processors are busy in proportion to them, and a probe says nothing of how much."""
        return max(CUT, AIM * AIM * self._ceiling / cpu) if self._above >= 2 and self._slow < 2 and cpu < SPENT else CUT

    def _fault(self, reading: Reading, slow: float | None, stalled: bool) -> tuple[str, float]:
        """Return why there must be less, or nothing, and how long after the last cut."""
        if self._above >= 2:
            return f"{reading.cpu:.0f} % of the processors is above {self._ceiling:g} %", BETWEEN
        if self._slow >= 2:
            return f"the probe takes {slow:.1f} times its quiet time", SEEN
        if stalled and slow is None:  # where there is a probe, it knows better: others may wait for each other
            return f"somebody waits for a processor {reading.stalled or 0:.0%} of the time", BETWEEN
        return "", BETWEEN

    def _slowness(self, now: float, probe: float | None, *, rests: bool) -> float | None:
        """Return what the probe takes in parts of what it took when it was quiet; `rests` if as little as may be is at work."""
        if probe is None:
            return None
        quiet = probe if self._quiet is None else self._quiet
        self._rest = [*self._rest, (now, probe)] if rests else []
        if self._rest and now - self._rest[0][0] >= _LEARNS:
            quiet = sum(took for _, took in self._rest) / len(self._rest)
            self._rest = []
        elif probe < quiet:
            quiet = min(quiet, _CHANCE * probe)
            quiet += _SINKS * (probe - quiet)
        self._quiet = quiet
        return probe / quiet if quiet else None


def shares(limit: int, slots: Sequence[int]) -> list[int]:
    """Return how many of the slots of each process may be used: in proportion, in whole numbers, never more than it has."""
    whole = sum(slots)
    if limit >= whole:
        return list(slots)
    exact = [limit * count / whole for count in slots]
    found = [int(share) for share in exact]
    largest = sorted(range(len(slots)), key=lambda at: found[at] - exact[at])
    for at in largest[: limit - sum(found)]:
        found[at] += 1
    return found
