"""The two clocks: what time it is, and how long something takes. Whatever waits, waits by the second, which no test stops."""

from __future__ import annotations

import time


def wall() -> float:
    """Return the time since the epoch."""
    return time.time()  # looked up each time: a function of freezegun that is kept fails when its block has ended


def steady() -> float:
    """Return seconds of a clock that only goes forward; freezegun and time-machine, which stop `time.monotonic`, do not stop it."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
