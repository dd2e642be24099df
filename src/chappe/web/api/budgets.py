"""How often third parties may be called, over HTTP."""

from __future__ import annotations

from msgspec import Struct

from chappe.engines.budget import BudgetStatus
from chappe.roles import READ
from chappe.web.api.operations import Part, get


class _List(Struct, frozen=True):
    budgets: list[BudgetStatus]


class Budgets(Part):
    """The route of budgets."""

    @get("/api/budgets", READ)
    async def budgets(self) -> _List:
        """List the budgets by name: what is left, what was learned, and since when."""
        return _List(await (await self._store()).budgets())
