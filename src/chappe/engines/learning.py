"""The pace of a third party that does not say its limit: learned from when calls started and when they were refused. Pure."""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

WINDOWS: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 86400.0)  # in which limits are counted, as third parties have them
_MOST: Final = 256  # starts that are remembered: of more, every second one
_BACK: Final = 0.7  # what is left of a limit that was lowered, until it is known better (beta of CUBIC, RFC 9438)
_INEXACT: Final = 1.0  # second by which it is wrong how long to wait, since that is said in whole ones and on another's clock
_SURE: Final = 2.0  # windows for which a limit that was found again, where nobody says how long to wait, is not tried further
_STEP: Final = 0.05  # by which a pace that was not refused for a window grows, three times as much each time


class Learned(Struct, frozen=True, array_like=True):
    """What is known of a limit: so many starts in a window, since some time, 0 for nothing yet.

    `pace` is the part of it that is used, which grows until something is refused: so a limit that was raised is found. `starts` are the
    last ones, each of which stands for `weight`, beside those `skipped`; `closed` is until when nothing may start, and `shut` until when
    after the last refusal. `passed` counts the starts since then that were not refused, and `tries` the windows that were tried where
    nobody says how long to wait.
    """

    limit: float = 0.0
    window: float = 0.0
    since: float = 0.0
    pace: float = 1.0
    step: float = _STEP
    grown: float = 0.0
    closed: float = 0.0
    shut: float = 0.0
    tries: int = 0
    weight: int = 1
    skipped: int = 0
    passed: int = 0
    starts: tuple[float, ...] = ()

    @property
    def interval(self) -> float:
        """The seconds between two starts, 0 as long as nothing was refused."""
        return self.window / (self.limit * self.pace) if self.limit else 0.0

    def count(self, after: float) -> int:
        """Return how many starts were after a time."""
        return self.weight * sum(start > after for start in self.starts) + self.skipped

    def started(self, now: float) -> Learned:
        """Return what is known after a start, which is never more than fit into a window."""
        horizon = now - max(self.window, WINDOWS[-1] if self.tries or not self.limit else 0.0)
        starts, weight, skipped = tuple(start for start in self.starts if start > horizon), self.weight, self.skipped + 1
        if skipped == weight:
            starts, skipped = (*starts, now), 0
        if len(starts) > _MOST:
            starts, weight = starts[1::2], 2 * weight
        tries = 0 if self.passed else self.tries
        known = _grown(replace(self, starts=starts, weight=weight, skipped=skipped, tries=tries, passed=self.passed + 1), now)
        room = math.ceil(known.limit * known.pace / weight)
        if 0 < room <= len(inside := [start for start in starts if start > now - known.window]):
            return replace(known, closed=max(known.closed, inside[-room] + known.window))
        return known

    def refused(self, now: float, wait: float | None = None) -> Learned:
        """Return what is known after a start was refused, by somebody who says how long to wait, or not."""
        known = self._without_refused()
        if now < self.shut:  # it had started before that was known
            known = replace(known, limit=max(1.0, known.limit - 1))
            return known if wait is None else replace(known, closed=max(self.closed, now + wait), shut=max(self.shut, now + wait))
        if wait is None:
            return _silent(known, now)
        window = max(known.window, next((one for one in WINDOWS if one >= wait), wait))
        return _learned(known, now, window, float(known.count(now + wait - window - min(_INEXACT, window / 10))), wait)

    def _without_refused(self) -> Learned:
        """Return this without the start that was refused, which third parties do not count."""
        if self.skipped or not self.starts:
            return replace(self, skipped=max(0, self.skipped - 1), passed=max(0, self.passed - 1))
        return replace(self, starts=self.starts[:-1], skipped=self.weight - 1, passed=max(0, self.passed - 1))


def _silent(known: Learned, now: float) -> Learned:
    """Try longer and longer windows until there is a start that is not refused; a known limit may have been lowered."""
    if not known.limit or known.tries:
        tries = min(known.tries + 1, len(WINDOWS))
        window, first = WINDOWS[tries - 1], known.since if known.tries else now
        return replace(_learned(known, now, window, float(known.count(first - window)), window), tries=tries, since=first)
    if not known.passed:  # refused again by the first start: the limit is lower than was thought
        return _learned(known, now, known.window, known.limit * _BACK, known.window)
    wait = known.window * max(0.0, 1 - 1 / known.pace) + known.interval
    found = _learned(known, now, known.window, float(min(known.limit * known.pace, known.count(now - known.window))), wait)
    is_known = abs(found.limit - known.limit) <= max(1.0, known.limit / 20)
    return replace(found, grown=found.grown + _SURE * known.window) if is_known else found


def _learned(known: Learned, now: float, window: float, limit: float, wait: float) -> Learned:
    ends, limit = now + wait, max(1.0, limit)
    step = max(_STEP, 1 / limit)
    return replace(known, limit=limit, window=window, since=now, closed=ends, shut=ends, pace=1.0, step=step, grown=ends, passed=0)


def _grown(known: Learned, now: float) -> Learned:
    """Use more of a limit that was used up for a window without a refusal."""
    if not known.limit or now - known.grown < known.window:
        return known
    if known.count(now - known.window) < 0.8 * known.limit * known.pace:  # nobody asks for more
        return replace(known, grown=now)
    return replace(known, pace=known.pace + known.step, step=min(1.0, 3 * known.step), grown=now)
