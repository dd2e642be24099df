"""The gateway: one ASGI application over the verbs of an `App`."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chappe.app import App
from chappe.binding import refuse_open_bind
from chappe.errors import BrokerError, ChappeError, StorageFull
from chappe.messages.codec import encode_json
from chappe.roles import FOLLOW, READ, SEND
from chappe.web.access import ANYBODY, OPEN, guarded
from chappe.web.api.actions import Actions
from chappe.web.api.batches import Batches
from chappe.web.api.failures import Failures
from chappe.web.api.letters import Letters
from chappe.web.api.lineage import Lineage
from chappe.web.api.messages import Messages
from chappe.web.api.overview import Overviews
from chappe.web.api.processes import Processes
from chappe.web.api.schedules import Schedules
from chappe.web.api.watched import Watched
from chappe.web.asyncapi import document as asyncapi_document
from chappe.web.commands import Commands
from chappe.web.guard import OPEN_PATHS, BodyTooLarge, Guard, path_of
from chappe.web.live import Live
from chappe.web.metrics import Metrics
from chappe.web.openapi import document
from chappe.web.pages import pages
from chappe.web.problems import problem, problem_of
from chappe.web.watching import Watching

_STREAMS = ("/events", "/api/changes")  # they may last for days
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin"))
VERSION = importlib.metadata.version("chappe")


def gateway(app: App) -> ASGIApp:
    """Return the ASGI application; raises `InvalidSettings` for an open bind without a token."""
    settings = app.settings
    refuse_open_bind(settings)
    commands, metrics, overviews = Commands(app), Metrics(), Overviews(app, VERSION)
    watching, failures = Watching(app), Failures(app)
    live = Live(app, commands.post)
    single = [part(app) for part in (Actions, Processes, Schedules, Letters, Messages)]
    parts = (overviews, failures, Batches(app, failures), Watched(app, watching), *single, Lineage(app, live.hub.pushed))
    operations = [operation for part in parts for operation in part.operations()]
    documents = {
        "/openapi.json": encode_json(document(app, VERSION, operations)),
        "/asyncapi.json": encode_json(asyncapi_document(app, VERSION)),
    }

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        try:
            connection = await app.connection()
            engine = await connection.store.engine()
        except ChappeError as error:
            return problem_of(error if isinstance(error, BrokerError) else BrokerError(str(error)))
        if engine.full:
            return problem_of(StorageFull("the disk of the engine is full: new messages are refused until there is room again"))
        return JSONResponse({"status": "ok", "engine": engine.pid or engine.path})

    async def show_metrics(_: Request) -> Response:
        connection = await app.connection()
        text, kind = metrics.expose(await connection.store.overview())
        return Response(text, headers={"Content-Type": kind})

    async def describe(request: Request) -> Response:
        return Response(documents[path_of(request.scope)], media_type="application/json")

    async def client(_: Request) -> Response:
        return FileResponse(Path(__file__).parent / "static/chappe.js", media_type="text/javascript")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        looking = asyncio.ensure_future(watching.run())
        yield
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await watching.close()
        await overviews.close()
        await live.hub.close()
        await app.aclose()

    routes = guarded([
        (SEND, Route("/commands/{name}", commands.post, methods=["POST"])),
        (f"{SEND} {READ}", Route("/messages/{id}", commands.get, methods=["GET"])),
        (f"{SEND} {READ}", Route("/batches/{id}", commands.get_batch, methods=["GET"])),
        (FOLLOW, Route("/events", live.get, methods=["GET"])),
        (FOLLOW, WebSocketRoute("/events", live.listen)),
        *((OPEN, Route(path, livez, methods=["GET"])) for path in sorted(OPEN_PATHS)),
        (ANYBODY, Route("/readyz", readyz, methods=["GET"])),
        (READ, Route("/metrics", show_metrics, methods=["GET"])),
        *((ANYBODY, Route(path, describe, methods=["GET"])) for path in documents),
        *((one.need, Route(one.path, one, methods=[one.method])) for one in operations),
        (ANYBODY, Route("/chappe.js", client, methods=["GET"])),
        *((OPEN, route) for route in pages()),
        *([(ANYBODY, Mount("/", StaticFiles(directory=settings.pages, html=True)))] if settings.pages else []),
    ])  # fmt: skip
    handlers = {HTTPException: _http_problem, ChappeError: _refused, Exception: _failure}
    inner = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    inner.router.redirect_slashes = False  # to send a command to another address is not what a client expects of a POST
    return _Measured(
        Guard(inner, settings, app.name), metrics, frozenset(route.path.partition("/")[2].partition("/")[0] for route in routes)
    )


class _Measured:
    """Counts requests by route, and sets the headers that every answer has."""

    def __init__(self, app: ASGIApp, metrics: Metrics, names: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._names = names  # the others are counted together: strangers think of many

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        first = path_of(scope).partition("/")[2].partition("/")[0]
        route = first if first in self._names - {""} else "other"

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                is_kept = any(name == b"cache-control" for name, _ in message["headers"])
                kept = () if is_kept else ((b"cache-control", b"no-store"),)
                message["headers"] = [*message["headers"], *_ALWAYS, *kept]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.requests.labels(route, str(status)).inc()
            if path_of(scope) not in _STREAMS:
                self._metrics.seconds.labels(route).observe(time.perf_counter() - started)


async def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    details = {404: "what there is stands in /openapi.json", 405: f"taken here: {headers.get('Allow', '')}"}
    detail = f"at most {error.most} bytes are taken" if isinstance(error, BodyTooLarge) else details.get(error.status_code, "")
    return problem(error.status_code, error.detail, detail, headers=headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ChappeError)
    return problem_of(error)


async def _failure(_: Request, error: Exception) -> Response:
    return problem(500, "The gateway failed", type(error).__name__)
