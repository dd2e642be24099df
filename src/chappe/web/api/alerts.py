"""The alerts that have fired and are not over, over HTTP."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chappe.app import App
from chappe.web.alerts import Fired, FiredAlerts
from chappe.web.api.described import described
from chappe.web.api.requests import answer


class _List(Struct, frozen=True):
    alerts: list[Fired]


class AlertRoutes:
    """The route of alerts, as whichever gateway has seen them told the engine."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._fired = FiredAlerts()

    def routes(self) -> list[Route]:
        """Return the route of alerts."""
        return [Route("/api/alerts", self._get, methods=["GET"])]

    @described(answers=_List)
    async def _get(self, _: Request) -> Response:
        """List the alerts that have fired and are not over."""
        return answer(_List(await self._fired.look((await self._app.connection()).store)))
