"""When something comes next, over HTTP: the schedules, which can be paused and fired now, and how often third parties may be called."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from chappe.engines.budget import BudgetStatus
from chappe.engines.contract.fleet import PAUSED, SCHEDULE
from chappe.errors import InvalidMessage
from chappe.roles import ACT, READ, Caller
from chappe.triggers.firings import Firing, firings, schedule_named
from chappe.web.api.operations import Part, get, noted, post, said_by


class _Firing(Struct, frozen=True, forbid_unknown_fields=True):
    paused: bool | None = None
    fire: bool = False


class _Schedules(Struct, frozen=True):
    schedules: list[Firing]


class _Budgets(Struct, frozen=True):
    budgets: list[BudgetStatus]


class Schedules(Part):
    """The routes of schedules and budgets."""

    @get("/api/budgets", READ)
    async def budgets(self) -> _Budgets:
        """List the budgets by name: what is left, what was learned, and since when."""
        return _Budgets(await (await self._store()).budgets())

    @get("/api/schedules", READ)
    async def schedules(self) -> _Schedules:
        """List the schedules in the order in which they fire."""
        return _Schedules(await firings(self._app.schedules, await self._store(), self._app.bus.now()))

    @post("/api/schedules/{name:path}", ACT)
    async def change(self, name: str, asked: _Firing, caller: Caller) -> dict[str, Any]:
        """Pause a schedule, have it go on, or send its command now, which leaves its slots as they are."""
        if asked.fire == (asked.paused is not None):
            raise InvalidMessage("the body", {"$": 'write {"paused": true}, {"paused": false} or {"fire": true}'})
        name = schedule_named(self._app.schedules, name, self._app.name)
        store = await self._store()
        if asked.fire:
            message = next(one.message for one in self._app.schedules if one.name == name)
            receipt = await self._app.asend(message)
            await noted(store, caller, "fire", f"schedule {name} as message {receipt.id}")
            return {"name": name, "id": receipt.id, "outcome": receipt.outcome}
        await store.desire(f"{SCHEDULE}{name}", PAUSED if asked.paused else None, said_by(caller))
        return {"name": name, "paused": asked.paused}
