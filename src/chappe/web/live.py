"""`GET /events`: the archive by pages and long-polls, and what comes by server-sent events and WebSocket, with the same positions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, cast

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from chappe.app import App
from chappe.archive.follow import AT_ONCE, LOST, WAIT, Since, begin_at, loss_of, loss_since, since_of
from chappe.engines.contract.archive import Archive
from chappe.errors import BrokerError, ChappeError, InvalidMessage
from chappe.messages.topology import passes
from chappe.roles import Limits
from chappe.web.access import limits_of
from chappe.web.asked import Post, answer_commands
from chappe.web.passes import covers
from chappe.web.problems import problem, problem_of
from chappe.web.push import PUSH, Push
from chappe.web.telling import (
    POSITION,
    Said,
    as_chunk,
    as_durable_chunk,
    as_durable_events,
    as_events,
    as_frames,
    cursor_of,
    lost_of,
    offset_of,
    position_of,
    said_of,
)

log = logging.getLogger("chappe.web")

HEARTBEAT: Final = 15.0  # seconds of silence after which the position is told
_LONGEST_POLL: Final = 30.0
_READ_WITHIN: Final = 60.0  # seconds for a client to read a page
_AGAIN: Final = 0.2
_LONGEST_PATTERN: Final = 255
_REMEMBERED: Final = 10_000  # events of which it is known to how many clients they were pushed


def _concerns(said: Said, pattern: str) -> bool:
    return pattern == "#" or said.key in (LOST, POSITION) or passes("topic", pattern, said.key)


Make = Callable[[list[Said]], bytes]
Tell = Callable[[list[Said], int | None], Awaitable[None]]  # sends events, and where their end is if there are no more


class Listener:
    """One client that has caught up up to a position."""

    def __init__(self, push: Push, pattern: str, make: Make, position: int) -> None:
        self.push = push
        self.pattern = pattern
        self.make = make
        self.position = position
        self.ahead = 0  # how far it has read, where that is further than who tells it what comes


class Hub:
    """Follows the archive once for everybody who listens; used on one event loop."""

    def __init__(self, archive: Callable[[], Awaitable[Archive]]) -> None:
        self._archive = archive
        self._groups: dict[tuple[str, Make], dict[Listener, None]] = {}
        self.position = -1
        self.pushed: dict[str, tuple[float, int]] = {}  # by id: when the latest events were pushed, and to how many clients
        self._task: asyncio.Task[None] | None = None
        self._read = asyncio.Event()
        self._told_at = 0.0

    async def ready(self) -> None:
        """Follow from now on, and return when the position is known."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow())
        while self.position < 0:
            await self._read.wait()

    async def close(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def join(self, listener: Listener) -> bool:
        """Have a listener hear what comes behind its position; False if it must read on by itself first."""
        if listener.position < self.position:
            return False
        listener.ahead = listener.position if listener.position > self.position else 0
        self._groups.setdefault((listener.pattern, listener.make), {})[listener] = None
        return True

    def leave(self, listener: Listener) -> None:
        """Have a listener hear no more."""
        group = self._groups.get((listener.pattern, listener.make), {})
        group.pop(listener, None)
        if not group:
            self._groups.pop((listener.pattern, listener.make), None)

    async def _follow(self) -> None:
        while True:
            try:
                archive = await self._archive()
                if self.position < 0:
                    self.position = (await archive.archived(0, 0)).end
                self._read.set()
                page = await archive.archived(self.position, AT_ONCE, wait=min(WAIT, HEARTBEAT))
            except Exception as error:  # whatever it is: those who listen would hear nothing any more
                log.warning("cannot read the archive for those who listen (%s); trying again", error)
                await asyncio.sleep(_AGAIN)
                continue
            loss = loss_of(self.position, page)
            said = [said_of(record) for record in page.records]
            now = asyncio.get_running_loop().time()
            if loss:
                said.insert(0, lost_of(page, loss))
            elif page.records:
                self._told_at = now
            elif now - self._told_at >= HEARTBEAT:
                self._told_at, said = now, [position_of(page.cursor)]
            self._publish(said, page.cursor)

    def _publish(self, said: list[Said], cursor: int) -> None:
        """Write to all without waiting: no listener can come or go meanwhile; one that has read further is told only what is new to it."""
        told: Counter[str] = Counter()
        for (pattern, make), listeners in list(self._groups.items()):
            concerned = [one for one in said if _concerns(one, pattern)]
            data = make(concerned) if concerned else b""
            told.update(dict.fromkeys([one.id for one in concerned if one.id], len(listeners)))
            for listener in list(listeners):
                new = data
                if listener.ahead:
                    behind = [one for one in concerned if one.seq > listener.ahead]
                    new = make(behind) if behind else b""
                    listener.ahead = listener.ahead if listener.ahead > cursor else 0
                if new and not listener.push.push(new):
                    log.warning("a client that did not read is closed: it was sent everything up to seq %d", self.position)
                    self.leave(listener)
        self.position = cursor
        self._remember(told)

    def _remember(self, told: Mapping[str, int]) -> None:
        now = time.time()
        self.pushed |= {message_id: (now, clients) for message_id, clients in told.items()}
        while len(self.pushed) > _REMEMBERED:
            del self.pushed[next(iter(self.pushed))]


class Wanted(NamedTuple):
    """What a request asks for."""

    pattern: str
    since: Since | None
    limit: int


def wanted_of(query: Any, last: str | None, limits: Limits | None = None, begin: str = "now") -> Wanted | Response:
    """Read the query; `last` is the Last-Event-ID, which counts before it, and `begin` counts without both. Raises `InvalidMessage`.

    What somebody with limits may not hear is answered.
    """
    only = limits.topics[0] if limits is not None and len(limits.topics) == 1 else "#"
    pattern = query.get("pattern", only)
    if not pattern or len(pattern) > _LONGEST_PATTERN or not all(pattern.split(".")):
        raise InvalidMessage("pattern", {"$": "write words joined by dots, * for one word, # for any number"})
    if limits is not None and not covers(limits.topics, pattern):
        return problem(
            403, "This is not permitted", f"the token lets you hear: {', '.join(limits.topics) or 'nothing'}; ask for ?pattern= of that"
        )
    text = last if last is not None else query.get("since", query.get("offset", begin))
    if len(query.getlist("offset")) > 1:
        raise InvalidMessage("offset", {"$": "send it once"})
    since = since_of("0" if text == "-1" else text)
    if since == "last":
        raise InvalidMessage("since", {"$": '"last" needs a name, which only programs have: keep the seq of the last event, and send it'})
    limit = query.get("limit", str(AT_ONCE))
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= 1000:
        raise InvalidMessage("limit", {"$": "it is a number within 1..1000"})
    return Wanted(pattern, since, int(limit))


def _left(limits: Limits | None) -> float | None:
    """Return the seconds for which a token is still good."""
    return None if limits is None else max(0.0, limits.until - time.time())


class Live:
    """The routes for events of one application."""

    def __init__(self, app: App, post: Post) -> None:
        """Serve the archive of an application, and over WebSockets what `post` does with a command."""
        self._post = post

        async def archive() -> Archive:
            return (await app.connection()).store

        self._archive = archive
        self.hub = Hub(archive)

    async def get(self, request: Request) -> ASGIApp:
        """`GET /events`: a page, a long-poll with `live=long-poll`, or server-sent events with `live=sse` or by `Accept`."""
        live = request.query_params.get("live", "")
        is_stream = live == "sse" or (not live and "text/event-stream" in request.headers.get("accept", ""))
        if live not in ("", "sse", "long-poll"):
            return problem(400, "There is no such way to listen", "live is sse or long-poll, or a WebSocket without it")
        limits = limits_of(request.scope)
        begin = "now" if live or is_stream or request.method == "HEAD" else "0"
        try:
            wanted = wanted_of(request.query_params, request.headers.get("last-event-id") if is_stream else None, limits, begin)
        except InvalidMessage as error:
            if "offset" not in request.query_params:
                raise
            return problem(400, "There is no such offset", str(error))
        if isinstance(wanted, Response):
            return wanted
        if is_stream:
            return self._stream(request, wanted, _left(limits))
        return await self._page(request, wanted, wait=min(_LONGEST_POLL, _left(limits) or _LONGEST_POLL) if live else 0.0)

    async def _page(self, request: Request, wanted: Wanted, *, wait: float) -> Response:
        archive = await self._archive()
        begin = await begin_at(archive, wanted.since)
        page = await archive.archived(begin, wanted.limit, pattern=wanted.pattern, wait=wait)
        said = [said_of(record) for record in page.records]
        if loss := loss_since(wanted.since, begin, page):
            said.insert(0, lost_of(page, loss))
        headers = {"Stream-Next-Offset": offset_of(page.cursor)}
        if page.cursor >= page.end:
            headers["Stream-Up-To-Date"] = "true"
        if wait:
            headers["Stream-Cursor"] = cursor_of(request.query_params.get("cursor", ""))
        if wait and not said:
            return Response(status_code=204, headers=headers)
        headers["ETag"] = f'"{begin}-{page.cursor}-{len(said)}-{page.cursor >= page.end:d}"'
        if not wait and headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(b"[" + b",".join(one.text for one in said) + b"]", 200, headers, "application/json")

    def _stream(self, request: Request, wanted: Wanted, left: float | None) -> ASGIApp:
        """Return the answer that does not end until its client goes."""
        push = request.scope.get("extensions", {}).get(PUSH)
        if push is None or request.scope["http_version"] == "1.0":
            return problem(505, "Events cannot be streamed over this connection", "use HTTP/1.1, or ask with live=long-poll")
        query = request.query_params
        is_durable, cursor = "offset" in query, cursor_of(query.get("cursor", ""))  # then it hears the events of Durable Streams
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-store", "X-Accel-Buffering": "no"}

        async def streamed(scope: Scope, receive: Receive, send: Send) -> None:
            async def say(said: list[Said], end: int | None) -> None:
                if body := as_durable_events(said, cursor, end) if is_durable else as_events(said):
                    await send({"type": "http.response.body", "body": body, "more_body": True})

            async def gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    continue

            await send({"type": "http.response.start", "status": 200, "headers": Headers(headers).raw})
            if scope["method"] != "HEAD":
                await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
                await self.serve(push, wanted, as_durable_chunk if is_durable else as_chunk, say, gone, left=left)
            await send({"type": "http.response.body", "body": b""})

        return streamed

    async def listen(self, websocket: WebSocket) -> None:
        """`GET /events` as a WebSocket, over which commands are taken too."""
        push = websocket.scope.get("extensions", {}).get(PUSH)
        limits = limits_of(websocket.scope)
        try:
            wanted = wanted_of(websocket.query_params, None, limits)
        except ChappeError as error:
            wanted = problem_of(error)
        if push is None:
            wanted = problem(505, "Events cannot be streamed over this connection")
        if push is None or isinstance(wanted, Response):
            await websocket.send_denial_response(cast("Response", wanted))
            return
        offered = websocket.scope["subprotocols"]
        await websocket.accept("chappe" if "chappe" in offered else None)

        async def send(said: list[Said], _: int | None) -> None:
            for one in said:
                await websocket.send_text(one.text.decode())

        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            has_ended = await self.serve(push, wanted, as_frames, send, lambda: answer_commands(websocket, self._post), left=_left(limits))
            await websocket.close(*((1008, "the token has ended") if has_ended else (1012, None)))

    async def serve(
        self, push: Push, wanted: Wanted, make: Make, send: Tell, gone: Callable[[], Awaitable[None]],
        *, left: float | None,
    ) -> bool:  # fmt: skip
        """Send the past, then have the hub send what comes, until the client goes, is sent away, or its token ends in `left` seconds.

        Tells whether it was that.
        """
        loop = asyncio.get_running_loop()
        leaving, ended = push.leaving, loop.create_future()
        ending = None if left is None else loop.call_later(left, ended.set_result, None)
        going, serving = asyncio.ensure_future(gone()), asyncio.ensure_future(self._catch_up(push, wanted, make, send))
        try:
            await asyncio.wait((serving, going, leaving, ended), return_when=asyncio.FIRST_COMPLETED)
            if serving.done() and serving.exception() is None:
                await asyncio.wait((going, leaving, ended), return_when=asyncio.FIRST_COMPLETED)
            return ended.done()
        finally:
            if ending is not None:
                ending.cancel()
            for task in (going, serving):
                task.cancel()
            await asyncio.gather(going, serving, return_exceptions=True)
            if not serving.cancelled() and serving.exception() is None:
                self.hub.leave(serving.result())
            if push.choked:
                push.transport.abort()  # it would not hear of its end

    async def _catch_up(self, push: Push, wanted: Wanted, make: Make, send: Tell) -> Listener:
        position, is_first = -1, True
        while True:
            try:
                await self.hub.ready()
                archive = await self._archive()
                if position < 0:
                    position = await begin_at(archive, wanted.since)
                    await send([position_of(position)], None)
                page = await archive.archived(position, AT_ONCE, pattern=wanted.pattern)
            except BrokerError as error:
                log.warning("cannot read the archive for a client (%s); trying again", error)
                await asyncio.sleep(_AGAIN)
                continue
            loss = loss_since(wanted.since, position, page) if is_first else loss_of(position, page)
            is_first = False
            async with asyncio.timeout(_READ_WITHIN):
                told = [*([lost_of(page, loss)] if loss else []), *(said_of(record) for record in page.records)]
                await send(told, page.cursor if page.cursor >= page.end else None)
            position = page.cursor
            listener = Listener(push, wanted.pattern, make, position)
            if page.cursor >= page.end and self.hub.join(listener):
                return listener
