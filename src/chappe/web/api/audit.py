"""Who did what: the audit trail, and who is asking."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from chappe.roles import READ, Caller
from chappe.web.access import ANYBODY
from chappe.web.api.operations import Part, get


class Entry(Struct, frozen=True):
    """One thing that somebody wanted or did: `what` is what a desired state is of, or `act:` and what was done."""

    number: int
    at: float
    who: str
    what: str
    value: str | None


class _List(Struct, frozen=True):
    entries: list[Entry]


class Me(Struct, frozen=True):
    """Who asks."""

    name: str
    permissions: list[str]


class Audit(Part):
    """The routes of the audit trail."""

    @get("/api/me", ANYBODY)
    async def me(self, caller: Caller) -> Me:
        """Tell who asks, and what they may do."""
        return Me(caller.name, sorted(caller.permissions))

    @get("/api/audit", READ)
    async def entries(self, *, limit: Annotated[int, Meta(ge=0, le=1000)] = 100) -> _List:
        """List who wanted and did what, the latest first."""
        said = await (await self._store()).desired(every=True, limit=limit)
        return _List(msgspec.convert(said[::-1], list[Entry], from_attributes=True))
