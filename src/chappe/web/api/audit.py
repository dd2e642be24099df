"""Who did what: the audit trail, and who is asking."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chappe.app import App
from chappe.web.api.described import described
from chappe.web.api.requests import answer, caller_of, number_in


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


class Audit:
    """The routes of the audit trail."""

    def __init__(self, app: App) -> None:
        self._app = app

    def routes(self) -> list[Route]:
        """Return the routes of the audit trail."""
        return [Route("/api/audit", self._list, methods=["GET"]), Route("/api/me", self._me, methods=["GET"])]

    @described(answers=Me)
    async def _me(self, request: Request) -> Response:
        """Tell who asks, and what they may do."""
        caller = caller_of(request)
        return answer(Me(caller.name, sorted(caller.permissions)))

    @described(answers=_List, query=("limit",))
    async def _list(self, request: Request) -> Response:
        """List who wanted and did what, the latest first."""
        store = (await self._app.connection()).store
        said = await store.desired(every=True, limit=number_in(request, "limit", 100, most=1000))
        return answer(_List([Entry(one.number, one.at, one.who, one.what, one.value) for one in reversed(said)]))
