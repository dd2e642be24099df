"""Who did what: the audit trail, and who is asking."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chappe.app import App
from chappe.web.api.requests import answer, caller_of, number_in


class Entry(Struct, frozen=True):
    """One thing that somebody wanted or did: `what` is what a desired state is of, or `act:` and what was done."""

    number: int
    at: float
    who: str
    what: str
    value: str | None


class Audit:
    """The routes of the audit trail."""

    def __init__(self, app: App) -> None:
        self._app = app

    def routes(self) -> list[Route]:
        """Return the routes of the audit trail."""
        return [Route("/api/audit", self._list, methods=["GET"]), Route("/api/me", self._me, methods=["GET"])]

    async def _me(self, request: Request) -> Response:
        caller = caller_of(request)
        return answer({"name": caller.name, "permissions": sorted(caller.permissions)})

    async def _list(self, request: Request) -> Response:
        store = (await self._app.connection()).store
        said = await store.desired(every=True, limit=number_in(request, "limit", 100, most=1000))
        return answer({"entries": [Entry(one.number, one.at, one.who, one.what, one.value) for one in reversed(said)]})
