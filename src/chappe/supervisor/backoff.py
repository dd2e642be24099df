"""When a process that ended is started again. Pure."""

from __future__ import annotations

from typing import Final

from chappe.lifetime import RENEWED

CONFIGURATION: Final = 78
HEALTHY_AFTER: Final = 10.0
_PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)


def is_planned(code: int, lived: float, *, asked: bool) -> bool:
    """Tell whether a process ended as planned: renewed, or in order when it was asked to, or after a healthy life."""
    return code == RENEWED or (code == 0 and (asked or lived >= HEALTHY_AFTER))


def crashes_after(crashes: int, code: int, lived: float, *, asked: bool = False, by_others: bool = False) -> int:
    """Return the number of crashes in a row after a process ended; after a long life, or one that others ended, it is the first."""
    if is_planned(code, lived, asked=asked):
        return 0
    return 1 if lived >= HEALTHY_AFTER or by_others else crashes + 1


def pause(crashes: int, retries: int | None = None, *, luck: float) -> float:
    """Return the seconds to wait before the next start: none after the first crash, a minute at most, also when the retries are spent.

    `luck` is between 0 and 1 and another for each process: many that crash together shall not all start again at the same moment.
    """
    latest = len(_PAUSES) - 1 if is_fatal(crashes, retries) else min(max(crashes - 1, 0), len(_PAUSES) - 1)
    return _PAUSES[latest] * (0.5 + 0.5 * luck)


def is_fatal(crashes: int, retries: int | None) -> bool:
    """Tell whether so many crashes in a row are more than a process may be tried again for."""
    return retries is not None and crashes > retries
