"""What one gateway of each host does beside answering: it keeps the history of the queues, and tells when something is wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
import msgspec

from chappe.alerting import alert, post
from chappe.app import App
from chappe.clocks import wall
from chappe.engines.contract.fleet import Overview
from chappe.errors import ChappeError
from chappe.web.alerts import Alerts, Change, fired_alerts, is_first_to_say
from chappe.web.event_counts import EventCounts
from chappe.web.history import MINUTE, Counts, History, counts_of, points_of

log = logging.getLogger("chappe.web")

_LOOK: Final = 1.0
_MOST_TELLING: Final = 50

T = TypeVar("T")


class Watching:
    """Looks at the queues for as long as its gateway lives; of several gateways on a host one does."""

    def __init__(self, app: App, now: Callable[[], float] = wall, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._app = app
        self._now = now
        self._sleep = sleep
        self._history: History | None = None
        self._using = asyncio.Lock()
        self._before: dict[str, Counts] | None = None
        self._minute = int(now() // MINUTE)
        self._said = ""
        self._alerts: Alerts | None = None
        self._counts: dict[str, EventCounts] = {}
        self._changes: list[Change] = []
        self._telling: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Look until this is cancelled; what goes wrong is logged once."""
        while True:
            try:
                await self.look()
                self._said = ""
            except (ChappeError, OSError, apsw.Error) as error:
                if str(error) != self._said:
                    log.warning("nobody looks at the queues for their history and alerts: %s; trying again", error)
                self._said = str(error)
            await self._sleep(_LOOK)

    async def look(self) -> None:
        """Do what is due now. Raises `BrokerUnavailable`, `OSError` or `apsw.Error`."""
        now = self._now()
        minute, rules = int(now // MINUTE), self._app.settings.alerts
        if (minute == self._minute and not rules) or not await self.history(History.lead):
            return
        store = (await self._app.connection()).store
        overview = await store.overview()
        if minute != self._minute:
            await self._record(minute, overview)
        if rules:
            if self._alerts is None:
                self._alerts = Alerts(rules, await fired_alerts(store))
                self._counts = {name: EventCounts(rule, now) for name, rule in rules.items() if rule.events is not None}
            counts = {name: await counted.count(store, now) for name, counted in self._counts.items()}
            known = {name: count for name, count in counts.items() if count is not None}
            self._changes += self._alerts.look(now, overview, known)
            while self._changes:
                if await is_first_to_say(store, self._changes[0], f"gateway@{socket.gethostname()}"):
                    self._tell(self._changes[0])
                del self._changes[0]

    def _tell(self, change: Change) -> None:
        """Tell the operator, in the background."""
        fired, settings = change.fired, self._app.settings
        text = f"{self._app.name}: {'it is over: ' if change.is_over else ''}{fired.text}"
        log.warning("alert %s: %s", fired.name, text)
        if len(self._telling) >= _MOST_TELLING:
            log.error("the alert %s is told nobody: %d others are not told yet", fired.name, len(self._telling))
            return
        told = {"application": self._app.name, "state": "resolved" if change.is_over else "fired", **msgspec.structs.asdict(fired)}
        for work in (alert(settings.alert, text), post(settings.alert_webhook, told, self._sleep)):
            task = asyncio.ensure_future(work)
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _record(self, minute: int, overview: Overview) -> None:
        at = (minute - 1) * MINUTE
        if self._before is None:
            self._before = await self.history(lambda history: history.counted(at))
        points = points_of(at, overview.queues, self._before)
        counts = {queue.name: counts_of(queue) for queue in overview.queues if not queue.temporary}
        await self.history(lambda history: history.record(at, points, counts))
        self._before = counts
        self._minute = minute

    async def history(self, work: Callable[[History], T]) -> T:
        """Have a thread work with the history, one at a time. Raises `OSError` or `apsw.Error`."""
        async with self._using:
            if self._history is None:
                self._history = await asyncio.to_thread(History, Path(f"{self._app.settings.path}.history"))
            return await asyncio.to_thread(work, self._history)

    async def close(self) -> None:
        """Close the history, for another gateway to go on with it; what is not told by now is not told."""
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)
        async with self._using:
            if self._history is not None:
                self._history.close()
                self._history = None
