"""The schedules of the application over HTTP: when each fires next, and pause and resume."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from chappe.app import App
from chappe.engines.contract.fleet import PAUSED
from chappe.messages.codec import encode_json
from chappe.triggers.firings import SCHEDULE, firings, schedule_named
from chappe.web.problems import problem


class _Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    paused: bool


class Schedules:
    """Two routes over one application."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def get(self, _: Request) -> Response:
        """List the schedules in the order in which they fire."""
        connection = await self._app.connection()
        found = await firings(self._app.schedules, connection.store, self._app.bus.now())
        return Response(encode_json({"schedules": [msgspec.structs.asdict(one) for one in found]}), media_type="application/json")

    async def post(self, request: Request) -> Response:
        """Pause a schedule, or have it go on."""
        try:
            wanted = msgspec.json.decode(await request.body(), type=_Wanted)
        except msgspec.DecodeError as error:
            return problem(422, "The message is not valid", f'write {{"paused": true}} or false: {error}')
        name = schedule_named(self._app.schedules, request.path_params["name"], self._app.name)
        store = (await self._app.connection()).store
        client = request.client.host if request.client is not None else "?"
        await store.desire(f"{SCHEDULE}{name}", PAUSED if wanted.paused else None, f"http@{client}")
        return Response(encode_json({"name": name, "paused": wanted.paused}), media_type="application/json")
