"""Everything an operator sees first, asked once or watched: all watchers together cost the engine one question a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from chappe.app import App
from chappe.engines.contract.fleet import ClientStatus, EngineStatus, QueueStatus
from chappe.errors import ChappeError
from chappe.messages.capabilities import Exchange
from chappe.messages.codec import encode_json
from chappe.web.api.described import described
from chappe.web.api.requests import answer
from chappe.web.intake import Intake
from chappe.web.problems import problem
from chappe.web.push import PUSH, Push

LOOK: Final = 1.0  # seconds between two looks while somebody watches
_MOST_WATCHERS: Final = 100
_QUIET: Final = b": nothing has changed\n\n"  # so that whoever stands between does not take the connection for dead
_QUIET_LOOKS: Final = 15


class Seen(Struct, frozen=True):
    """What is declared, connected and waiting; `hosts` is what their supervisors tell of pools and pressure.

    `passed` says of exchanges how many messages were published there and how many were delivered to queues, where the engine counts that.
    """

    application: str
    version: str
    now: float
    intake: str
    engine: EngineStatus
    queues: list[QueueStatus]
    exchanges: list[Exchange]
    passed: dict[str, tuple[int, int]]
    hosts: list[dict[str, Any]]
    clients: list[ClientStatus]


class Overviews:
    """Looks at the engine for one gateway."""

    def __init__(self, app: App, version: str) -> None:
        self._app = app
        self._version = version
        self._intake = Intake(app)
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._last = b""

    def routes(self) -> list[Route]:
        """Return the routes of the overview."""
        return [
            Route("/api/overview", self._get, methods=["GET"]),
            Route("/api/changes", self._watch, methods=["GET"]),
            Route("/api/queues", self._queues, methods=["GET"]),
        ]

    async def look(self) -> Seen:
        """Return the present state. Raises `BrokerUnavailable`."""
        store = (await self._app.connection()).store
        overview = await store.overview()
        others = [client for client in overview.clients if client.role != "supervisor"]
        return Seen(
            self._app.name, self._version, self._app.bus.now(), "paused" if await self._intake.is_paused() else "open", overview.engine,
            overview.queues, overview.exchanges, overview.passed, overview.supervisors, others,
        )  # fmt: skip

    async def close(self) -> None:
        """End what watches."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    @described(answers=Seen)
    async def _get(self, _: Request) -> Response:
        """Tell what is declared, connected and waiting."""
        return answer(await self.look())

    async def _queues(self, _: Request) -> Response:
        """List the queues."""
        return answer({"queues": (await (await self._app.connection()).store.overview()).queues})

    async def _watch(self, request: Request) -> Response:
        """Send the overview whenever it has changed, at most once a second."""
        if len(self._watchers) >= _MOST_WATCHERS:
            return problem(503, "Too many are watching", "close a page of the dashboard", headers={"Retry-After": "10"})
        push: Push | None = request.scope.get("extensions", {}).get(PUSH)
        leaving = asyncio.get_running_loop().create_future() if push is None else push.leaving
        return StreamingResponse(self._told(leaving), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _told(self, leaving: asyncio.Future[None]) -> AsyncGenerator[bytes]:
        """Yield the latest overview each time there is a newer one; who reads slowly misses those between."""
        latest: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self._watchers.add(latest)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._tell())
        elif self._last:
            latest.put_nowait(self._last)
        getting = asyncio.ensure_future(latest.get())
        try:
            while not leaving.done():
                await asyncio.wait((getting, leaving), return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
                    getting = asyncio.ensure_future(latest.get())
        finally:
            getting.cancel()
            self._watchers.discard(latest)

    async def _tell(self) -> None:
        """Tell the watchers what has changed, until nobody watches."""
        quiet, told = 0, None
        while self._watchers:
            try:
                seen: Seen | str = await self.look()
            except ChappeError as error:
                seen = str(error)
            quiet = quiet + 1 if _is_as(told, seen) else 0
            if not quiet or quiet % _QUIET_LOOKS == 0:
                self._last = _frame(seen)
                for watcher in self._watchers:
                    _replace(watcher, _QUIET if quiet else self._last)
            told = seen
            await asyncio.sleep(LOOK)


def _replace(latest: asyncio.Queue[bytes], frame: bytes) -> None:
    if latest.full():
        latest.get_nowait()
    latest.put_nowait(frame)


def _frame(seen: Seen | str) -> bytes:
    kind, data = (b"lost", {"error": seen}) if isinstance(seen, str) else (b"overview", seen)
    return b"event: " + kind + b"\ndata: " + encode_json(data) + b"\n\n"


def _is_as(told: Seen | str | None, seen: Seen | str) -> bool:
    """Tell whether nothing but the time is another."""
    if isinstance(told, Seen) and isinstance(seen, Seen):
        return replace(told, now=seen.now) == seen
    return told == seen
