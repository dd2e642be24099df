"""The two clocks: what time it is, and how long something takes. Whatever waits, waits by the second, which no test stops."""

from __future__ import annotations

import time
from collections.abc import Callable


def wall() -> float:
    """Return the time since the epoch."""
    return time.time()  # looked up each time: a function of freezegun that is kept fails when its block has ended


def steady() -> float:
    """Return seconds of a clock that only goes forward; freezegun and time-machine, which stop `time.monotonic`, do not stop it."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def steady_clock() -> Callable[[], float]:
    """Return the time since the epoch as it was at the start plus what a steady clock measured since.

    A jump of the wall clock moves no deadline while the engine runs.
    """
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset
