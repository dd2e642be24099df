"""How many slots the workers of a host may use, so that others are not slowed down: additive increase, multiplicative decrease. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec import Struct

TICK: Final = 0.5  # seconds between two readings
CUT: Final = 0.7
TARGET: Final = 0.91  # of the ceiling, up to which slots grow: what is measured swings
SATURATED: Final = 97.0  # percent of the processors above which nobody knows how much too much it is
STALLED: Final = 0.4  # the part of the time in which somebody waited for a processor
HELD: Final = 5.0  # seconds after a deep cut in which nothing grows
BETWEEN: Final = 1.0  # seconds between two cuts: what one did shows a little later
BETWEEN_PROBED: Final = 2.0  # the same where the probe is the reason: its latest answers are as old
GROWTH: Final = 0.03  # of all slots, in a second
_SMOOTH: Final = 0.1  # of the way to a faster answer of the probe, for each reading: one that was fast by luck is not its quiet value
_LUCK: Final = 2.0  # times faster that an answer may be by luck; a host that just began is slower than that
_REST: Final = 5.0  # seconds with as little at work as may be, whose mean is the quiet value: nothing of ours slows it then


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


class _Fault(NamedTuple):
    """Why there must be less, which part of the slots stays, and how long after the last cut."""

    why: str
    part: float = CUT
    between: float = BETWEEN


class Governor:
    """One for a host: each pool by itself would take what another has just given."""

    def __init__(self, cpu: float, slow: float) -> None:
        """Begin with few slots, so that the probe is seen on a quiet host; it is too slow above `slow` times what it takes then."""
        self._ceiling = cpu
        self._slow_above = slow
        self._limit: float | None = None
        self._above = 0  # readings in a row with more than the ceiling
        self._cut_at = self._held_until = float("-inf")
        self._quiet: float | None = None
        self._slow = 0  # readings in a row with a slow probe
        self._resting: list[tuple[float, float]] = []  # when the probe was read, and what it took, since as little as may be is at work

    def rule(self, now: float, reading: Reading, *, busy: int, slots: int, least: int) -> Ruling:
        """Return how many of all slots may be used; `busy` are in use, and `least` are always allowed."""
        limit = max(least, 0.1 * slots) if self._limit is None else self._limit
        slow = self._slowness(now, reading.probe, rests=limit <= least and busy <= least)
        self._above = self._above + 1 if reading.cpu > self._ceiling else 0
        self._slow = self._slow + 1 if slow is not None and slow > self._slow_above else 0
        stalled = reading.stalled is not None and reading.stalled > STALLED
        fault = self._fault(reading, slow, stalled)
        why = "" if fault is None else fault.why
        if fault is not None and now - self._cut_at >= fault.between:
            limit = min(limit, max(busy, least)) * fault.part  # what was allowed and not used is no relief
            self._cut_at, self._held_until = now, now + (HELD if fault.part == CUT else fault.between)
        elif fault is not None or now < self._held_until:
            why = why or "held after a cut"
        elif self._above or self._slow or stalled:
            why = f"no more: {'the probe is slow' if self._slow else 'the processors are busy'}"
        elif busy > (limit - least) / 2:  # the one that each pool keeps need not be in use
            room = (TARGET * self._ceiling - reading.cpu) * busy / max(1.0, reading.cpu)  # what runs takes no more than all that is taken
            limit += max(0.0, min(max(1.0, GROWTH * slots) * TICK, room))
        self._limit = max(float(least), min(float(slots), limit))
        return Ruling(int(self._limit), why, None if slow is None else round(slow, 2))

    def _fault(self, reading: Reading, slow: float | None, stalled: bool) -> _Fault | None:
        """Return why there must be less, or nothing; how busy the processors are goes with the slots, what a probe takes does not."""
        if self._above >= 2:
            why = f"{reading.cpu:.0f} % of the processors is above {self._ceiling:g} %"
            is_known = self._slow < 2 and reading.cpu < SATURATED
            return _Fault(why, max(CUT, TARGET * TARGET * self._ceiling / reading.cpu) if is_known else CUT)
        if self._slow >= 2:
            return _Fault(f"the probe takes {slow:.1f} times its quiet time", between=BETWEEN_PROBED)
        if stalled and slow is None:  # where there is a probe, it knows better: others may wait for each other
            return _Fault(f"somebody waits for a processor {reading.stalled or 0:.0%} of the time")
        return None

    def _slowness(self, now: float, probe: float | None, *, rests: bool) -> float | None:
        """Return what the probe takes in parts of what it took when it was quiet; `rests` if as little as may be is at work."""
        if probe is None:
            return None
        quiet = probe if self._quiet is None else self._quiet
        self._resting = [*self._resting, (now, probe)] if rests else []
        if self._resting and now - self._resting[0][0] >= _REST:
            quiet = sum(took for _, took in self._resting) / len(self._resting)
            self._resting = []
        elif probe < quiet:
            quiet = min(quiet, _LUCK * probe)
            quiet += _SMOOTH * (probe - quiet)
        self._quiet = quiet
        return probe / quiet if quiet else None


def filled(limit: int, slots: Sequence[int]) -> list[int]:
    """Return how many of the slots of each process may be used if the first have all of theirs: the others let a processor rest."""
    found: list[int] = []
    for count in slots:
        found.append(min(count, limit))
        limit -= found[-1]
    return found


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
