"""Who may use a route: there is none of which it is not said what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from chappe.roles import Caller, Limits
from chappe.web.problems import problem

CALLER: Final = "chappe.caller"  # where the scope of a request has who speaks
OPEN: Final = "open"  # whoever the guard lets pass
ANYBODY: Final = "anybody"  # who is known, whatever they may do
AnyRoute = Route | WebSocketRoute | Mount


def guarded(routes: Iterable[tuple[str, AnyRoute]]) -> list[AnyRoute]:
    """Have each route serve only who has one of the permissions that it needs."""
    found: list[AnyRoute] = []
    for need, route in routes:
        route.app = Checked(route.app, need)
        found.append(route)
    return found


def permits(scope: Mapping[str, object], need: str) -> bool:
    """Tell whether who speaks has one of the permissions that something needs."""
    caller = scope.get(CALLER)
    return need == OPEN or (isinstance(caller, Caller) and (need == ANYBODY or not caller.permissions.isdisjoint(need.split())))


def limits_of(scope: Mapping[str, object]) -> Limits | None:
    """Return the limits of who speaks, if there are any."""
    caller = scope.get(CALLER)
    return caller.limits if isinstance(caller, Caller) else None


class Checked:
    """What serves a route, for who may use it."""

    def __init__(self, app: ASGIApp, need: str) -> None:
        self._app = app
        self.need = need

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if permits(scope, self.need):
            await self._app(scope, receive, send)
            return
        caller = scope.get(CALLER)
        name = caller.name if isinstance(caller, Caller) else "this request"
        detail = f'it needs the permission "{" or ".join(self.need.split())}", and the role of {name} does not have it'
        await problem(403, "This is not permitted", detail)(scope, receive, send)
