"""When a process that ended is started again. Pure."""

from __future__ import annotations

from typing import Final

PLANNED: Final = frozenset({0, 64 + 13})  # 0: asked to end; 77: renewed itself after its messages, age or memory
RENEWED: Final = 77
CONFIGURATION: Final = 78
HEALTHY_AFTER: Final = 10.0
_PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)


def is_planned(code: int) -> bool:
    """Tell whether a process ended as planned: it is replaced at once, and no crash is counted."""
    return code in PLANNED


def crashes_after(crashes: int, code: int, lived: float) -> int:
    """Give the number of crashes in a row after a process ended; a long life begins anew."""
    if is_planned(code):
        return 0
    return 1 if lived >= HEALTHY_AFTER else crashes + 1


def pause(crashes: int) -> float:
    """Give the seconds to wait before the next start: none after the first crash, never more than a minute."""
    return 0.0 if crashes == 0 else _PAUSES[min(crashes - 1, len(_PAUSES) - 1)]
