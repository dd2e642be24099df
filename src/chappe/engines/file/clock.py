"""The time by which the engine judges delays."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_clock() -> Callable[[], float]:
    """Return the time since the epoch as it was at the start plus what a steady clock measured since.

    A jump of the wall clock moves no deadline while the engine runs.
    """
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset
