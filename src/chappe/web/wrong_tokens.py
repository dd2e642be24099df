"""What follows when requests come with a wrong token: lines in the log, and answers that wait."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger("chappe.web")

FREE: Final = 10  # mistakes within a minute that are answered at once
WAIT: Final = 1.0  # seconds for each that follows
MOST_WAITING: Final = 64  # answers that wait at once: more would be memory and descriptors for whoever asks
_MINUTE: Final = 60.0


class WrongTokens:
    """Counts wrong tokens by the minute; whoever has the right one waits for nobody's mistakes."""

    def __init__(self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._now = now
        self._sleep = sleep
        self._minute = -_MINUTE
        self._count = 0
        self._waiting = 0

    async def slow(self, address: str) -> bool:
        """Note one more, and return when its answer may leave; tell whether so many wait that there is no place for it."""
        now = self._now()
        if now >= self._minute + _MINUTE:
            before = f"; {self._count} in the minute before that" if self._count else ""
            log.warning("a request came with a wrong token, from %s%s", address, before)
            self._minute, self._count = now, 0
        self._count += 1
        if self._count <= FREE:
            return False
        if self._waiting >= MOST_WAITING:
            return True
        self._waiting += 1
        try:
            await self._sleep(WAIT)
        finally:
            self._waiting -= 1
        return False
