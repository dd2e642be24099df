"""How many events of a pattern there were lately, read from the archive as they come."""

from __future__ import annotations

from collections import deque
from typing import Final

from chappe.engines.contract.archive import Archive
from chappe.settings import Alert

_END: Final = 2**62  # behind every archive: it answers with where its end is
_PAGE: Final = 500
_PAGES: Final = 20  # that are read at once: what is left is read the next time


class EventCounts:
    """The events that one rule is about, by the second."""

    def __init__(self, rule: Alert, now: float) -> None:
        self._pattern = rule.events or "#"
        self._rule = rule
        self._total = 0
        self._began = now
        self._cursor: int | None = None
        self._seconds: deque[tuple[int, int]] = deque()

    async def count(self, archive: Archive, now: float) -> int | None:
        """Read on, and return how many there were, or nothing while that is not known: it was not looked for so long."""
        if self._cursor is None:
            self._cursor = (await archive.archived(_END, 1)).cursor
        for _ in range(_PAGES):
            page = await archive.archived(self._cursor, _PAGE, pattern=self._pattern)
            for record in page.records:
                self._add(int(record.at))
            self._cursor = page.cursor
            if page.cursor >= page.end:
                break
        while self._seconds and self._seconds[0][0] <= now - self._rule.within:
            self._total -= self._seconds.popleft()[1]
        is_more = self._rule.most is not None and self._total > self._rule.most
        return self._total if is_more or now - self._began >= self._rule.within else None

    def _add(self, second: int) -> None:
        self._total += 1
        known = self._seconds[-1] if self._seconds else (-1, 0)
        if known[0] >= second:  # the clock of a server may go back a little
            self._seconds[-1] = (known[0], known[1] + 1)
        else:
            self._seconds.append((second, 1))
