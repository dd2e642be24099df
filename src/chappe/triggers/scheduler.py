"""Fires the slots of schedules: any number of schedulers may run, each slot is sent once."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence

from chappe.bounds import CLOCKS_APART
from chappe.bus.merging import Merger
from chappe.engines.contract.fleet import PAUSED, SCHEDULE
from chappe.engines.contract.store import Store
from chappe.errors import BrokerError, BrokerUnavailable, ChappeError, DefinitionError, Unconfirmed
from chappe.messages.envelope import Publication
from chappe.messages.message import Command
from chappe.triggers.schedule import Schedule, due

log = logging.getLogger("chappe.scheduler")

_LONGEST_SLEEP = 5.0
_AFTER_FAILURE = 1.0


class Scheduler:
    """Sleeps until the next slot, then has the store fire it if nobody did."""

    def __init__(
        self,
        schedules: Sequence[Schedule],
        store: Store,
        *,
        application: str,
        prepare: Callable[[Command], Publication],
        merging: Merger,
        now: Callable[[], float],
    ) -> None:
        names = [schedule.name for schedule in schedules]
        for name in names:
            if names.count(name) > 1:
                raise DefinitionError(f'two schedules are called "{name}"; give one of them name="..."')
        self._schedules = schedules
        self._store = store
        self._application = application
        self._begun = False
        self._prepare = prepare
        self._merging = merging
        self._now = now
        self._ahead: set[str] = set()
        self._paused: set[str] = set()
        self._heard = 0

    async def run(self) -> None:
        """Fire until cancelled; a broker that is away delays, it does not end this."""
        while True:
            try:
                pause = await self.turn()
            except BrokerError as error:
                log.warning("cannot fire (%s); trying again", error)
                pause = _AFTER_FAILURE
            await asyncio.sleep(pause)

    async def turn(self) -> float:
        """Fire what is due now and return the seconds until something may be due."""
        if not self._begun:
            await self._begin()
        await self._hear()
        upcoming = _LONGEST_SLEEP
        for schedule in self._schedules:
            try:
                upcoming = min(upcoming, await self._fire(schedule))
            except (BrokerUnavailable, Unconfirmed):
                raise
            except ChappeError as error:  # one schedule's trouble must not keep the others from firing
                log.error("cannot fire %s: %s", schedule.name, error)
                upcoming = min(upcoming, _AFTER_FAILURE)
            except Exception:  # nor must what the user's code raises: a trigger, a field's default, a merge
                log.exception("cannot fire %s", schedule.name)
                upcoming = min(upcoming, _AFTER_FAILURE)
        return max(0.001, upcoming)

    async def _begin(self) -> None:
        """Have the store know the schedules as they are now: what is new or has changed counts from here on."""
        definitions = {schedule.name: schedule.definition for schedule in self._schedules}
        await self._store.begin_schedules(self._application, definitions, self._now())
        self._begun = True

    async def _hear(self) -> None:
        """Hear which schedules an operator paused; what came due until one goes on again is passed over."""
        names = {schedule.name for schedule in self._schedules}
        for one in await self._store.desired(after=self._heard):
            self._heard = one.number
            name = one.what.removeprefix(SCHEDULE)
            if not one.what.startswith(SCHEDULE) or name not in names:
                continue
            if one.value == PAUSED:
                self._paused.add(name)
            elif name in self._paused:
                self._paused.remove(name)
                await self._store.fire(name, one.at, ())

    async def _fire(self, schedule: Schedule) -> float:
        """Fire what is due of one schedule and return the seconds until its next slot."""
        now = self._now()
        last = await self._store.last_fired(schedule.name)
        if last is None:  # the store was emptied or replaced meanwhile
            await self._begin()
            last = await self._store.last_fired(schedule.name) or now
        self._say_if_ahead(schedule.name, last - now)
        slots = due(schedule, last, now)
        if schedule.name in self._paused:
            if slots:
                await self._store.fire(schedule.name, slots[-1], ())
            return schedule.trigger.after(max(last, now)) - now
        for slot in slots:
            original = [self._prepare(schedule.message)]
            merge = functools.partial(self._merging.merged, original)
            if await self._store.fire(schedule.name, slot, original, merge):
                log.info("fired %s for %s", schedule.name, slot)
        return schedule.trigger.after(max(last, now)) - now

    def _say_if_ahead(self, name: str, seconds: float) -> None:
        """Say once that a schedule waits for its own past: a slot is never fired twice, whatever the clock does."""
        if seconds <= CLOCKS_APART:
            self._ahead.discard(name)
        elif name not in self._ahead:
            self._ahead.add(name)
            log.warning(
                "%s has fired %.0f s ahead of this clock, which was set back; it goes on when the clock has caught up", name, seconds
            )
