"""What one gateway of each host does beside answering: it keeps the history of the queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import apsw

from chappe.app import App
from chappe.clocks import wall
from chappe.engines.contract.fleet import Overview
from chappe.errors import ChappeError
from chappe.web.history import MINUTE, Counts, History, counts_of, points_of

log = logging.getLogger("chappe.web")

_LOOK: Final = 1.0

T = TypeVar("T")


class Watching:
    """Looks at the queues for as long as its gateway lives; of several gateways on a host one does."""

    def __init__(self, app: App, now: Callable[[], float] = wall, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._app = app
        self._now = now
        self._sleep = sleep
        self._history: History | None = None
        self._using = asyncio.Lock()
        self._before: dict[str, Counts] = {}
        self._minute = int(now() // MINUTE)
        self._said = ""

    async def run(self) -> None:
        """Look until this is cancelled; what goes wrong is logged once."""
        while True:
            try:
                await self.look()
                self._said = ""
            except (ChappeError, OSError, apsw.Error) as error:
                if str(error) != self._said:
                    log.warning("the history of the queues is not kept: %s; trying again", error)
                self._said = str(error)
            await self._sleep(_LOOK)

    async def look(self) -> None:
        """Do what is due now. Raises `BrokerUnavailable`, `OSError` or `apsw.Error`."""
        minute = int(self._now() // MINUTE)
        if minute == self._minute or not await self.history(History.lead):
            return
        overview = await (await self._app.connection()).store.overview()
        await self._record(minute, overview)

    async def _record(self, minute: int, overview: Overview) -> None:
        at = (minute - 1) * MINUTE
        points = points_of(at, overview.queues, self._before)
        await self.history(lambda history: history.record(at, points))
        self._before = {queue.name: counts_of(queue) for queue in overview.queues if not queue.temporary}
        self._minute = minute

    async def history(self, work: Callable[[History], T]) -> T:
        """Have a thread work with the history, one at a time. Raises `OSError` or `apsw.Error`."""
        async with self._using:
            if self._history is None:
                self._history = await asyncio.to_thread(History, Path(f"{self._app.settings.path}.history"))
            return await asyncio.to_thread(work, self._history)

    async def close(self) -> None:
        """Close the history, for another gateway to go on with it."""
        async with self._using:
            if self._history is not None:
                self._history.close()
                self._history = None
