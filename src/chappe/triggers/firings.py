"""When schedules fire next, and whether somebody has paused them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from chappe.engines.contract.fleet import PAUSED, SCHEDULE
from chappe.engines.contract.store import Store
from chappe.errors import NotFound
from chappe.triggers.schedule import Schedule


class Firing(Struct, frozen=True):
    """A schedule as operators see it: its `next` slot in seconds since the epoch, and the `last`, or when it began to count."""

    name: str
    trigger: str
    message: str
    misfire: str
    last: float | None
    next: float
    paused: bool


async def firings(schedules: Sequence[Schedule], store: Store, now: float) -> list[Firing]:
    """Return the schedules of an application in the order in which they fire; what is paused passes its slots over."""
    paused = {one.what.removeprefix(SCHEDULE) for one in await store.desired() if one.what.startswith(SCHEDULE) and one.value == PAUSED}
    found: list[Firing] = []
    for one in schedules:
        last = await store.last_fired(one.name)
        due = one.trigger.after(max(last or now, now))
        found.append(Firing(one.name, str(one.trigger), one.message.__spec__.name, one.misfire, last, due, one.name in paused))
    return sorted(found, key=lambda firing: firing.next)


def schedule_named(schedules: Sequence[Schedule], given: str, application: str) -> str:
    """Return the whole name of a schedule, which may be given without its application. Raises `NotFound` with those there are."""
    names = [one.name for one in schedules]
    for name in (given, f"{application}:{given}"):
        if name in names:
            return name
    raise NotFound(f'no schedule is called "{given[:100]}"; there are: {", ".join(names) or "none"}')
