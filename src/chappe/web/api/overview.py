"""Everything an operator sees first, asked once or watched: all watchers together cost the engine one question a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from chappe.app import App
from chappe.engines.contract.fleet import ClientStatus, EngineStatus, QueueStatus
from chappe.errors import ChappeError
from chappe.messages.capabilities import Exchange
from chappe.messages.codec import encode_json
from chappe.roles import READ
from chappe.web.api.operations import Part, get
from chappe.web.intake import Intake
from chappe.web.problems import problem
from chappe.web.push import PUSH, Push

LOOK: Final = 1.0  # seconds between two looks while somebody watches
_MOST_WATCHERS: Final = 100
_QUIET_LOOKS: Final = 15  # after which it is told again, so that whoever stands between does not take the connection for dead


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


class _Queues(Struct, frozen=True):
    queues: list[QueueStatus]


class Overviews(Part):
    """Looks at the engine for one gateway."""

    def __init__(self, app: App, version: str) -> None:
        super().__init__(app)
        self._version = version
        self._intake = Intake(app)
        self._watchers = 0
        self._watching: asyncio.Task[None] | None = None
        self._last = b""
        self._next: asyncio.Future[None]  # done when there is a newer one

    @get("/api/overview", READ)
    async def look(self) -> Seen:
        """Tell what is declared, connected and waiting."""
        overview = await (await self._store()).overview()
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

    @get("/api/queues", READ)
    async def queues(self) -> _Queues:
        """List the queues."""
        return _Queues((await (await self._store()).overview()).queues)

    @get("/api/changes", READ)
    async def watch(self, request: Request) -> Response:
        """Send the overview whenever it has changed, at most once a second, and after 15 seconds without a change."""
        if self._watchers >= _MOST_WATCHERS:
            return problem(503, "Too many are watching", "close a page of the dashboard", headers={"Retry-After": "10"})
        push: Push | None = request.scope.get("extensions", {}).get(PUSH)
        leaving = asyncio.get_running_loop().create_future() if push is None else push.leaving
        return StreamingResponse(self._watched(leaving), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _watched(self, leaving: asyncio.Future[None]) -> AsyncGenerator[bytes]:
        """Yield the latest overview each time there is a newer one; who reads slowly misses those between."""
        self._watchers += 1
        if self._watching is None or self._watching.done():
            self._last, self._next = b"", asyncio.get_running_loop().create_future()
            self._watching = asyncio.ensure_future(self._tell())
        newer = self._next
        try:
            if self._last:
                yield self._last
            while not leaving.done():
                await asyncio.wait((leaving, newer), return_when=asyncio.FIRST_COMPLETED)
                if newer.done():
                    newer = self._next
                    yield self._last
        finally:
            self._watchers -= 1

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
                self._last, newer, self._next = _frame(seen), self._next, asyncio.get_running_loop().create_future()
                newer.set_result(None)
            told = seen
            await asyncio.sleep(LOOK)


def _frame(seen: Seen | str) -> bytes:
    kind, data = (b"lost", {"error": seen}) if isinstance(seen, str) else (b"overview", seen)
    return b"event: " + kind + b"\ndata: " + encode_json(data) + b"\n\n"


def _is_as(told: Seen | str | None, seen: Seen | str) -> bool:
    """Tell whether nothing but the time is another."""
    if isinstance(told, Seen) and isinstance(seen, Seen):
        return replace(told, now=seen.now) == seen
    return told == seen
