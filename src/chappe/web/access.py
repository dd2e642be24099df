"""What each route needs: one without a line here is refused when the gateway is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from chappe.errors import DefinitionError
from chappe.roles import ACT, ADMIN, FOLLOW, LOGS, READ, SEND, Caller, Limits
from chappe.web.problems import problem

CALLER: Final = "chappe.caller"  # where the scope of a request has who speaks
OPEN: Final = "open"  # whoever the guard lets pass
ANYBODY: Final = "anybody"  # who is known, whatever they may do
NEEDED: Final[dict[str, str]] = {
    "POST /commands/{name}": SEND,
    "GET /messages/{id}": f"{SEND} {READ}",
    "GET /batches/{id}": f"{SEND} {READ}",
    "GET /events": FOLLOW,
    "WEBSOCKET /events": FOLLOW,
    "GET /livez": OPEN,
    "GET /healthz": OPEN,
    "GET /readyz": ANYBODY,
    "GET /metrics": READ,
    "GET /openapi.json": ANYBODY,
    "GET /asyncapi.json": ANYBODY,
    "GET /chappe.js": ANYBODY,
    "GET /dashboard": OPEN,
    "GET /dashboard/{path:path}": OPEN,
    "MOUNT /dashboard": OPEN,
    "MOUNT ": ANYBODY,
    "GET /api/me": ANYBODY,
    "GET /api/overview": READ,
    "GET /api/changes": READ,
    "GET /api/queues": READ,
    "GET /api/messages": READ,
    "GET /api/messages/{id}": READ,
    "GET /api/lineage/{id}": READ,
    "GET /api/schedules": READ,
    "GET /api/budgets": READ,
    "GET /api/failures": READ,
    "GET /api/failures/{fingerprint}": READ,
    "GET /api/batches": READ,
    "GET /api/batches/{id}": READ,
    "GET /api/letters": READ,
    "GET /api/letters/{number:int}": READ,
    "GET /api/history": READ,
    "GET /api/alerts": READ,
    "GET /api/audit": READ,
    "GET /api/pools/{name}/logs": LOGS,
    "POST /api/processes/{pid:int}/stacks": LOGS,
    "POST /api/messages/{id}/cancel": ACT,
    "POST /api/queues/{name:path}": ACT,
    "POST /api/schedules/{name:path}": ACT,
    "POST /api/failures/{fingerprint}": ACT,
    "POST /api/batches/{id}": ACT,
    "POST /api/letters/{number:int}": ACT,
    "POST /api/intake": ADMIN,
    "POST /api/pools/{name}": ADMIN,
    "POST /api/tenants/{name:path}": ADMIN,
    "POST /api/reload": ADMIN,
}


def guarded(routes: Sequence[BaseRoute]) -> Sequence[BaseRoute]:
    """Have each route serve only who may. Raises `DefinitionError` for a route of which it is not said who that is."""
    for route in routes:
        assert isinstance(route, (Route, WebSocketRoute, Mount))
        methods = (
            sorted((route.methods or set()) - {"HEAD"})
            if isinstance(route, Route)
            else [type(route).__name__.removesuffix("Route").upper()]
        )
        needs: dict[str, str] = {}
        for method in methods:
            if (need := NEEDED.get(f"{method} {route.path}")) is None:
                raise DefinitionError(
                    f"nobody may use the route {method} {route.path}: say in NEEDED of chappe/web/access.py what it needs"
                )
            needs[method] = need
        route.app = _Checked(route.app, needs)
    return routes


def permits(scope: Mapping[str, object], need: str) -> bool:
    """Tell whether who speaks has one of the permissions that something needs."""
    caller = scope.get(CALLER)
    return need == OPEN or (isinstance(caller, Caller) and (need == ANYBODY or not caller.permissions.isdisjoint(need.split())))


def limits_of(scope: Mapping[str, object]) -> Limits | None:
    """Return the limits of who speaks, if there are any."""
    caller = scope.get(CALLER)
    return caller.limits if isinstance(caller, Caller) else None


class _Checked:
    def __init__(self, app: ASGIApp, needs: Mapping[str, str]) -> None:
        self._app = app
        self._needs = needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method", "")
        need = self._needs.get("GET" if method == "HEAD" else method) or next(iter(self._needs.values()))
        if permits(scope, need):
            await self._app(scope, receive, send)
            return
        detail = f'it needs the permission "{" or ".join(need.split())}", and the role of {_name(scope)} does not have it'
        await problem(403, "This is not permitted", detail)(scope, receive, send)


def _name(scope: Scope) -> str:
    caller = scope.get(CALLER)
    return caller.name if isinstance(caller, Caller) else "this request"
