"""What an operator does over HTTP to queues, pools, tenants and the intake, and the audit trail, which remembers who did what."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from chappe.engines.contract.fleet import INTAKE, PAUSED, POOL, QUEUE, RELOAD, TENANT, Desired
from chappe.engines.fairness import weight_of
from chappe.errors import InvalidMessage, NotFound, Rejected
from chappe.roles import ACT, ADMIN, READ, Caller
from chappe.settings import processes_of
from chappe.web.access import ANYBODY
from chappe.web.api.operations import Part, get, noted, post, said_by


class Pausing(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether something is to be paused."""

    paused: bool


class _Scaling(Struct, frozen=True, forbid_unknown_fields=True):
    processes: str | None


class _Weighing(Struct, frozen=True, forbid_unknown_fields=True):
    weight: float | None


class Entry(Struct, frozen=True):
    """One thing that somebody wanted or did: `what` is what a desired state is of, or `act:` and what was done."""

    number: int
    at: float
    who: str
    what: str
    value: str | None


class _Trail(Struct, frozen=True):
    entries: list[Entry]


class Me(Struct, frozen=True):
    """Who asks."""

    name: str
    permissions: list[str]


class Actions(Part):
    """The routes that change what is desired, and tell who did."""

    @get("/api/me", ANYBODY)
    async def me(self, caller: Caller) -> Me:
        """Tell who asks, and what they may do."""
        return Me(caller.name, sorted(caller.permissions))

    @get("/api/audit", READ)
    async def entries(self, *, limit: Annotated[int, Meta(ge=0, le=1000)] = 100) -> _Trail:
        """List who wanted and did what, the latest first."""
        said = await (await self._store()).desired(every=True, limit=limit)
        return _Trail(msgspec.convert(said[::-1], list[Entry], from_attributes=True))

    async def _desire(self, caller: Caller, what: str, value: str | None) -> Desired:
        return await (await self._store()).desire(what, value, said_by(caller))

    @post("/api/queues/{name:path}", ACT)
    async def pause_queue(self, name: str, asked: Pausing, caller: Caller) -> Desired:
        """Pause a queue, or have it go on."""
        return await self._desire(caller, f"{QUEUE}{name}", PAUSED if asked.paused else None)

    @post("/api/intake", ADMIN)
    async def pause_intake(self, asked: Pausing, caller: Caller) -> Desired:
        """Take no new commands over HTTP, or take them again."""
        return await self._desire(caller, INTAKE, PAUSED if asked.paused else None)

    @post("/api/pools/{name}", ADMIN)
    async def scale(self, name: str, asked: _Scaling, caller: Caller) -> Desired:
        """Choose the number of processes of a pool."""
        pools = self._app.settings.pools
        if name not in pools:
            raise NotFound(f'no pool is called "{name[:100]}"; the pools of chappe.toml are: {", ".join(pools)}')
        try:
            processes_of(asked.processes or "auto")
        except ValueError as error:
            raise InvalidMessage("the number of processes", {"$.processes": str(error)}) from None
        return await self._desire(caller, f"{POOL}{name}", asked.processes or None)

    @post("/api/tenants/{name:path}", ADMIN)
    async def weigh(self, name: str, asked: _Weighing, caller: Caller) -> Desired:
        """Choose what share of the workers' time a tenant has."""
        try:
            weight = None if asked.weight is None else str(weight_of(str(asked.weight)))
        except Rejected as error:
            raise InvalidMessage("the weight", {"$.weight": str(error)}) from None
        return await self._desire(caller, f"{TENANT}{name}", weight)

    @post("/api/reload", ADMIN)
    async def reload(self, caller: Caller) -> Desired:
        """Have all hosts take a new release into use."""
        return await self._desire(caller, RELOAD, None)

    @post("/api/messages/{id}/cancel", ACT)
    async def cancel(self, id: str, caller: Caller) -> dict[str, str]:
        """Cancel a message, and tell in which state it was."""
        state = await self._app.acancel(id)
        await noted(await self._store(), caller, "cancel", f"message {id}, which was {state}")
        return {"state": state}
