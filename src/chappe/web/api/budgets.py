"""How often third parties may be called, over HTTP."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chappe.app import App
from chappe.web.api.requests import answer


class Budgets:
    """The route of budgets."""

    def __init__(self, app: App) -> None:
        self._app = app

    def routes(self) -> list[Route]:
        """Return the route of budgets."""
        return [Route("/api/budgets", self._get, methods=["GET"])]

    async def _get(self, _: Request) -> Response:
        """List the budgets by name: what is left, what was learned, and since when."""
        found = await (await self._app.connection()).store.budgets()
        return answer({"budgets": [msgspec.structs.asdict(one) for one in found]})
