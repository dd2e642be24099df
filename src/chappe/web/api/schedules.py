"""The schedules of the application over HTTP: when each fires next, and pause, resume and fire now."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chappe.app import App
from chappe.engines.contract.fleet import PAUSED, SCHEDULE
from chappe.errors import InvalidMessage
from chappe.triggers.firings import firings, schedule_named
from chappe.web.api.requests import answer, noted, wanted, who


class _Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    paused: bool | None = None
    fire: bool = False


class Schedules:
    """Two routes over one application."""

    def __init__(self, app: App) -> None:
        self._app = app

    def routes(self) -> list[Route]:
        """Return the routes of schedules."""
        return [
            Route("/api/schedules", self._get, methods=["GET"]),
            Route("/api/schedules/{name:path}", self._post, methods=["POST"]),
        ]

    async def _get(self, _: Request) -> Response:
        """List the schedules in the order in which they fire."""
        connection = await self._app.connection()
        found = await firings(self._app.schedules, connection.store, self._app.bus.now())
        return answer({"schedules": [msgspec.structs.asdict(one) for one in found]})

    async def _post(self, request: Request) -> Response:
        """Pause a schedule, have it go on, or send its command now, which leaves its slots as they are."""
        asked = await wanted(request, _Wanted)
        if asked.fire == (asked.paused is not None):
            raise InvalidMessage("the body", {"$": 'write {"paused": true}, {"paused": false} or {"fire": true}'})
        name = schedule_named(self._app.schedules, request.path_params["name"], self._app.name)
        store = (await self._app.connection()).store
        if asked.fire:
            message = next(one.message for one in self._app.schedules if one.name == name)
            receipt = await self._app.asend(message)
            await noted(store, request, "fire", f"schedule {name} as message {receipt.id}")
            return answer({"name": name, "id": receipt.id, "outcome": receipt.outcome})
        await store.desire(f"{SCHEDULE}{name}", PAUSED if asked.paused else None, who(request))
        return answer({"name": name, "paused": asked.paused})
