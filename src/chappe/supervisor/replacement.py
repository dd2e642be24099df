"""How a new release takes the place of the old one: a process is ended when its successor is ready, and the gateway changes last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from chappe.errors import InvalidSettings
from chappe.settings import Settings
from chappe.supervisor.child import Child
from chappe.supervisor.plan import ChildSpec
from chappe.supervisor.release import Release

log = logging.getLogger("chappe.supervisor")

_READY: Final = 30.0


class Keeper(Protocol):
    """What keeps processes running."""

    @property
    def running(self) -> Sequence[Child]: ...

    def add(self, spec: ChildSpec, release: Release | None = None) -> Child: ...

    async def retire(self, child: Child) -> None: ...


def refuse_other_place(old: Settings, new: Settings) -> None:
    """Raise `InvalidSettings` for what a reload cannot change while messages are served."""
    for name in ("broker", "store", "host", "port", "app"):
        if getattr(old, name) != getattr(new, name):
            raise InvalidSettings(f'"{name}" cannot be changed by a reload; end chappe run and start it again')


async def replace_all(keeper: Keeper, old: Release, new: Release, specs: Sequence[ChildSpec]) -> bool:
    """Start the processes of a release one after the other and retire those they replace; tell whether the new release is in place.

    Workers come first and have handed back what they did not begin before the gateway changes, so that nobody takes what no worker knows.
    Where a process does not come up, those of the old release are started again and the new ones end.
    """
    before = {child.spec.name: child for child in keeper.running}
    replaced: list[ChildSpec] = []
    ending: list[asyncio.Task[None]] = []
    for spec in specs:
        if spec.role == "gateway":
            await _all(ending)
        child = keeper.add(spec, new)
        if not await child.until_ready(_READY):
            log.error("the new release is refused: its %s did not come up; the old one goes on", spec.name)
            await _take_back(keeper, old, replaced)
            await _all(ending)
            return False
        if (predecessor := before.pop(spec.name, None)) is not None:
            replaced.append(predecessor.spec)
            ending.append(asyncio.create_task(keeper.retire(predecessor)))
    await _all(ending)
    await _retire_all(keeper, new)
    return True


async def _take_back(keeper: Keeper, old: Release, replaced: Sequence[ChildSpec]) -> None:
    """Start again what was replaced, then end the new release."""
    for child in [keeper.add(spec, old) for spec in replaced]:
        await child.until_ready(_READY)
    await _retire_all(keeper, old)


async def _retire_all(keeper: Keeper, but: Release) -> None:
    """Retire what is of another release: also processes that were added meanwhile."""
    await asyncio.gather(*(keeper.retire(child) for child in keeper.running if child.release is not but))


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.gather(*tasks)
        tasks.clear()
