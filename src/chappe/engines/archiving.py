"""Which archived events are one row: a row for each would cost a publisher as much as the messages themselves. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ROOM: Final = 64 * 1024  # bytes of the events of one row; one that has more is alone
_EVENTS: Final = 128  # of one row at most: who wants one of them reads them all


def runs(events: Iterable[tuple[str | None, int]]) -> list[tuple[int, int]]:
    """Return the first and the end of each row, of events that are published together and follow one another in one exchange.

    Of each event the exchange that keeps it, or none, and its bytes are given.
    """
    found: list[tuple[int, int]] = []
    last: str | None = None
    room = 0
    for place, (exchange, size) in enumerate(events):
        room -= size
        if exchange is not None:
            if exchange == last and room >= 0 and place - found[-1][0] < _EVENTS:
                found[-1] = (found[-1][0], place + 1)
            else:
                found.append((place, place + 1))
                room = ROOM - size
        last = exchange
    return found
