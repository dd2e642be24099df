"""The alerts that have fired and are not over, over HTTP."""

from __future__ import annotations

from msgspec import Struct

from chappe.app import App
from chappe.roles import READ
from chappe.web.alerts import Fired, FiredAlerts
from chappe.web.api.operations import Part, get


class _List(Struct, frozen=True):
    alerts: list[Fired]


class AlertRoutes(Part):
    """The route of alerts, as whichever gateway has seen them told the engine."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self._fired = FiredAlerts()

    @get("/api/alerts", READ)
    async def fired(self) -> _List:
        """List the alerts that have fired and are not over."""
        return _List(await self._fired.look(await self._store()))
