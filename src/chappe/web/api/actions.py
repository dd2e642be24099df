"""What an operator does over HTTP to queues, pools, tenants and the intake: each is remembered with who said it."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chappe.app import App
from chappe.engines.contract.fleet import INTAKE, PAUSED, POOL, QUEUE, RELOAD, TENANT
from chappe.engines.fairness import weight_of
from chappe.errors import InvalidMessage, NotFound, Rejected
from chappe.settings import processes_of
from chappe.web.api.requests import answer, noted, wanted, who


class Pausing(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether something is to be paused."""

    paused: bool


class _Scaling(Struct, frozen=True, forbid_unknown_fields=True):
    processes: str | None


class _Weighing(Struct, frozen=True, forbid_unknown_fields=True):
    weight: float | None


class Actions:
    """The routes that change what is desired."""

    def __init__(self, app: App) -> None:
        self._app = app

    def routes(self) -> list[Route]:
        """Return the routes of what can be done."""
        return [
            Route("/api/queues/{name:path}", self._pause_queue, methods=["POST"]),
            Route("/api/intake", self._pause_intake, methods=["POST"]),
            Route("/api/pools/{name}", self._scale, methods=["POST"]),
            Route("/api/tenants/{name:path}", self._weigh, methods=["POST"]),
            Route("/api/reload", self._reload, methods=["POST"]),
            Route("/api/messages/{id}/cancel", self._cancel, methods=["POST"]),
        ]

    async def _desire(self, request: Request, what: str, value: str | None) -> Response:
        store = (await self._app.connection()).store
        return answer(await store.desire(what, value, who(request)))

    async def _pause_queue(self, request: Request) -> Response:
        pausing = await wanted(request, Pausing)
        return await self._desire(request, f"{QUEUE}{request.path_params['name']}", PAUSED if pausing.paused else None)

    async def _pause_intake(self, request: Request) -> Response:
        pausing = await wanted(request, Pausing)
        return await self._desire(request, INTAKE, PAUSED if pausing.paused else None)

    async def _scale(self, request: Request) -> Response:
        scaling, name = await wanted(request, _Scaling), request.path_params["name"]
        pools = self._app.settings.pools
        if name not in pools:
            raise NotFound(f'no pool is called "{name[:100]}"; the pools of chappe.toml are: {", ".join(pools)}')
        try:
            processes_of(scaling.processes or "auto")
        except ValueError as error:
            raise InvalidMessage("the number of processes", {"$.processes": str(error)}) from None
        return await self._desire(request, f"{POOL}{name}", scaling.processes or None)

    async def _weigh(self, request: Request) -> Response:
        weighing = await wanted(request, _Weighing)
        try:
            weight = None if weighing.weight is None else str(weight_of(str(weighing.weight)))
        except Rejected as error:
            raise InvalidMessage("the weight", {"$.weight": str(error)}) from None
        return await self._desire(request, f"{TENANT}{request.path_params['name']}", weight)

    async def _reload(self, request: Request) -> Response:
        return await self._desire(request, RELOAD, None)

    async def _cancel(self, request: Request) -> Response:
        message = request.path_params["id"]
        state = await self._app.acancel(message)
        await noted((await self._app.connection()).store, request, "cancel", f"message {message}, which was {state}")
        return answer({"state": state})
