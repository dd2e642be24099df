"""When something starts by itself: the slots of a schedule. Pure."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from types import FunctionType
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Struct

from chappe.bounds import FURTHEST
from chappe.errors import DefinitionError
from chappe.messages.message import Command

_ALIASES = {"@yearly": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@hourly": "0 * * * *"}
_MOST_MISSED = 1000
_LONGEST_EXPRESSION = 1000


class Trigger(Struct, frozen=True):
    """Return the times at which something is due; a trigger is known by its text, which must be the same in each process."""

    def __str__(self) -> str:
        """Return the class and its fields; raises `DefinitionError` for a field whose text another process would not give."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return f"{type(self).__qualname__}{msgspec.json.encode(fields, enc_hook=_lasting_text, order='deterministic').decode()}"

    def after(self, moment: float) -> float:
        """Return the first slot after a moment, both in seconds since the epoch."""
        raise NotImplementedError


class Cron(Trigger, frozen=True):
    """Slots by a cron expression in a time zone; a time that DST skips or repeats has one slot (as Debian's cron)."""

    expression: str
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"cron({self.expression},{self.zone})"

    def after(self, moment: float) -> float:
        start = datetime.datetime.fromtimestamp(moment, ZoneInfo(self.zone))
        return next(CronSim(self.expression, start)).timestamp()


class Every(Trigger, frozen=True):
    """Slots every so many seconds, counted from the epoch so that all schedulers agree on them."""

    seconds: float

    def __str__(self) -> str:
        short = f"{self.seconds:g}"
        return f"every({short if float(short) == self.seconds else self.seconds})"

    def after(self, moment: float) -> float:
        # A slot is its number times the pace, to the last bit: what differed in rounding would be another slot, and fire again.
        number = math.floor(moment / self.seconds)
        return next(slot for n in range(number - 1, number + 3) if (slot := n * self.seconds) > moment)


def cron(expression: str, zone: str = "UTC") -> Cron:
    """Return a trigger like `cron("0 4 * * *", "Europe/Paris")`; raises `DefinitionError` for a wrong one."""
    shown = str(expression)[:60]
    expression = _ALIASES.get(str(expression), str(expression))
    if len(expression) > _LONGEST_EXPRESSION:
        raise DefinitionError(f'cron("{shown}…") is longer than {_LONGEST_EXPRESSION} characters; write minute hour day month weekday')
    try:
        found = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError):
        raise DefinitionError(f'cron: no time zone is called "{zone}"; write one like "Europe/Paris"') from None
    try:
        next(CronSim(expression, datetime.datetime(2026, 1, 1, tzinfo=found)))
    except (CronSimError, ValueError) as error:
        raise DefinitionError(f'cron("{shown}") is wrong: {error}; write minute hour day month weekday') from None
    except StopIteration:
        raise DefinitionError(f'cron("{shown}") never comes: no such day is in the calendar') from None
    return Cron(expression, zone)


def every(seconds: float) -> Every:
    """Return a trigger that fires every so many seconds."""
    if not isinstance(seconds, int | float) or not 0.1 <= seconds <= FURTHEST:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"every({seconds}): at least 0.1 seconds are needed, and less than a century")
    return Every(float(seconds))


class Schedule(Struct, frozen=True):
    """A command for each slot of a trigger; `misfire` is what becomes of missed slots: once, skip or all."""

    name: str
    trigger: Trigger
    message: Command
    misfire: str = "once"

    def __post_init__(self) -> None:
        if self.misfire not in ("once", "skip", "all"):
            raise DefinitionError(f'schedule {self.name}: misfire="{self.misfire}" must be once, skip or all')
        _ = self.definition  # what is another one at each start is refused where it is declared

    @property
    def definition(self) -> str:
        """Return what decides when it fires: where that changes, the schedule begins again."""
        return f"{self.trigger} misfire={self.misfire}"


def _lasting_text(value: Any) -> str:
    text = f"{value.__module__}.{value.__qualname__}" if isinstance(value, type | FunctionType) else repr(value)
    if re.search(r"\bat 0x[0-9a-f]+|<lambda>", text):
        raise DefinitionError(f"a trigger is known by its text, and {text} is another one in each process; give its class a __repr__")
    return text


def due(schedule: Schedule, last: float, now: float, late: float = 60.0) -> list[float]:
    """Return the slots to fire now, oldest first, after the last that fired.

    A slot is missed when it is older than `late` seconds: *once* fires only the newest of those missed, *skip* none,
    *all* each (at most 1000).
    """
    trigger = schedule.trigger
    if schedule.misfire == "all":
        return list(_slots(trigger, last, now))
    fresh = list(_slots(trigger, max(last, now - late - 1e-6), now))
    if fresh or schedule.misfire == "skip":
        return fresh
    return _newest(trigger, last, now, late)


def _newest(trigger: Trigger, last: float, now: float, span: float) -> list[float]:
    """Return the newest slot after the last, looking back further each time: a long absence is not walked through."""
    while True:
        start = max(last, now - span)
        found = list(_slots(trigger, start, now))[-1:]
        if found or start <= last:
            return found
        span *= 8


def _slots(trigger: Trigger, last: float, now: float) -> Iterator[float]:
    slot = trigger.after(last)
    for _ in range(_MOST_MISSED):
        if slot > now:
            return
        yield slot
        slot = trigger.after(slot)
