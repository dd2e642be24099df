"""Three sales channels as one process with real HTTP, which answer well or as badly as they are told to.

`python -m channel_manager.channel_server --port 0 --xsd auto` prints `{"port": N}` when it listens on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from channel_manager.bookings import find_schema
from channel_manager.calendars import CHANNELS, Calendars
from channel_manager.confirmations import Confirmation, Confirmations, is_loopback
from channel_manager.journal import Journal
from channel_manager.shapes import ShapeError, alpine_answer, is_ical, read_alpine, read_nimbus, read_schema
from local_server import serve

MOST_BYTES: Final = 1_000_000
ABORT: Final = "channel_manager.abort"


class Manner(Struct, frozen=True, forbid_unknown_fields=True):
    """How a channel answers `share` of its pushes: well, after `seconds`, 429, 500, or not at all."""

    manner: Literal["well", "slow", "busy", "broken", "drops"] = "well"
    seconds: Annotated[float, Meta(ge=0, le=600)] = 0.5
    retry_after: Annotated[float, Meta(ge=0, le=600)] = 1
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0


class _Turns:
    """Spreads a share evenly and exactly: 0.25 is every fourth, so that a test needs no luck."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self._sum = 0.0
        self._drops = 0

    def next(self) -> str:
        if self.manner.manner == "well":
            return "well"
        self._sum += self.manner.share
        if self._sum < 1 - 1e-9:
            return "well"
        self._sum -= 1
        if self.manner.manner == "drops":
            # A lost answer says nothing about the push: every second one was applied.
            self._drops += 1
            return "drops" if self._drops % 2 else "drops late"
        return self.manner.manner


class _Dropped(Response):
    """No answer: the connection is cut."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][ABORT]()
        # The server complains about an application that does not answer, unless it knows that the client has gone.
        while (await receive())["type"] != "http.disconnect":
            pass


class _Protocol(HttpToolsProtocol):
    """Hands the application the means to cut a connection, which ASGI has not."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: cast("dict[object, object]", self.transport.abort)}


class ChannelServer:
    """The routes of the three channels, and of the control over them."""

    def __init__(self, schema: Any = None) -> None:
        self._schema = schema
        self._confirmations = Confirmations()
        self._clear()

    def _clear(self) -> None:
        self._calendars = Calendars()
        self._journal = Journal()
        self._turns = {channel: _Turns(Manner()) for channel in CHANNELS}

    def app(self) -> Starlette:
        """Return the ASGI application; its lifespan posts the confirmations."""
        return Starlette(
            lifespan=self._lifespan,
            routes=[
                Route("/alpine/{listing}", self.alpine, methods=["POST"]),
                Route("/nimbus/{listing}/deltas", self.nimbus, methods=["POST"]),
                Route("/ical/{listing}.ics", self.publish_ical, methods=["PUT"]),
                Route("/ical/{listing}.ics", self.serve_ical, methods=["GET"]),
                Route("/control/{channel}", self.control, methods=["POST"]),
                Route("/state", self.state, methods=["GET"]),
                Route("/log", self.log, methods=["GET"]),
                Route("/stats", self.stats, methods=["GET"]),
                Route("/reset", self.reset, methods=["POST"]),
            ],
        )

    async def alpine(self, request: Request) -> Response:
        """Take an AlpineBits FreeRooms message."""

        def take(listing: str, body: bytes) -> tuple[str, Response]:
            try:
                message = read_alpine(body, self._schema)
                if message.hotel_code != listing:
                    raise ShapeError(f"HotelCode {message.hotel_code} is not {listing}")
            except ShapeError as error:
                return "invalid", Response(alpine_answer(str(error)), 400, media_type="application/xml")
            self._calendars.take_alpine(listing, message)
            return "ok", Response(alpine_answer(), media_type="application/xml")

        return await self._push("alpine", request, take)

    async def nimbus(self, request: Request) -> Response:
        """Accept changed nights at once, and confirm them to the callback later."""
        own_id = request.headers.get("x-message-id")
        message_id = own_id or f"nimbus-{self._journal.last + 1}"
        callback = request.headers.get("x-callback")

        def take(listing: str, body: bytes) -> tuple[str, Response]:
            if listing.endswith("-closed"):
                return "closed", _json({"code": "E410", "resend": False}, 409)
            try:
                deltas = read_nimbus(body)
                if callback is not None and not is_loopback(callback):
                    raise ShapeError("X-Callback must be http on this machine")
            except ShapeError as error:
                return "invalid", _json({"code": "E400", "resend": False, "detail": str(error)}, 400)
            # A listing that is leaving is refused only in the confirmation.
            leaving = listing.endswith("-leaving")
            first = not leaving and self._calendars.take_nimbus(listing, message_id, deltas)
            if callback is not None:
                self._confirmations.later(
                    callback, Confirmation(message_id, listing, "refused" if leaving else "ok", "E410" if leaving else None)
                )
            return "refused" if leaving else "ok" if first else "repeated", _json({"message_id": message_id}, 202)

        return await self._push("nimbus", request, take)

    async def publish_ical(self, request: Request) -> Response:
        """Take a feed for publication."""

        def take(listing: str, body: bytes) -> tuple[str, Response]:
            if not is_ical(body):
                return "invalid", _json({"detail": "not a VCALENDAR"}, 400)
            return "ok", Response(status_code=204, headers={"etag": self._calendars.take_ical(listing, body)})

        return await self._push("ical", request, take)

    async def serve_ical(self, request: Request) -> Response:
        """Serve a published feed, or 304 to whoever has it."""
        feed = self._calendars.feed(request.path_params["listing"])
        if feed is None:
            return _json({"detail": "no such feed"}, 404)
        if request.headers.get("if-none-match") == feed.etag:
            return Response(status_code=304, headers={"etag": feed.etag})
        return Response(feed.body, media_type="text/calendar", headers={"etag": feed.etag})

    async def control(self, request: Request) -> Response:
        """Set how a channel answers from now on."""
        channel = request.path_params["channel"]
        if channel not in self._turns:
            return _json({"detail": f"no channel {channel}; there are {', '.join(CHANNELS)}"}, 404)
        try:
            manner = msgspec.json.decode(await request.body(), type=Manner)
        except msgspec.DecodeError as error:
            return _json({"detail": str(error)}, 400)
        self._turns[channel] = _Turns(manner)
        return _json(manner)

    async def state(self, _: Request) -> Response:
        """Return every calendar."""
        return _json(self._calendars.state())

    async def log(self, request: Request) -> Response:
        """Return the pushes after a number."""
        try:
            after = int(request.query_params.get("after", "0"))
            limit = min(10_000, int(request.query_params.get("limit", "10000")))
        except ValueError:
            return _json({"detail": "after and limit are whole numbers"}, 400)
        return _json({"entries": self._journal.after(max(0, after), max(0, limit)), "last": self._journal.last})

    async def stats(self, _: Request) -> Response:
        """Return counts and latencies by channel, and how the confirmations fared."""
        return _json(
            {"channels": self._journal.stats(), "confirmations": {**self._confirmations.counts, "pending": self._confirmations.pending}}
        )

    async def reset(self, _: Request) -> Response:
        """Forget everything: calendars, log, figures, manners, pending confirmations."""
        self._clear()
        self._confirmations.forget()
        return _json({"reset": True})

    async def _push(self, channel: str, request: Request, take: Callable[[str, bytes], tuple[str, Response]]) -> Response:
        received_at = time.time()
        listing: str = request.path_params["listing"]
        turns = self._turns[channel]
        turn = turns.next()
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    turn = "too large"
                    break
            if turn == "slow":
                await asyncio.sleep(turns.manner.seconds)
        except ClientDisconnect:  # a sender may be killed at any moment
            turn = "cut off"
        except asyncio.CancelledError:  # this server is ending and its time is up
            turn = "drops"
        match turn:
            case "too large":
                outcome, answer = "invalid", _json({"detail": "too large"}, 413)
            case "busy":
                # Whole seconds, as HTTP has it; never sooner than was asked for.
                outcome, answer = "busy", Response(status_code=429, headers={"retry-after": str(math.ceil(turns.manner.retry_after))})
            case "broken":
                outcome, answer = "broken", Response("out of order", 500)
            case "cut off":
                outcome, answer = "cut off", _Dropped()
            case "drops":
                outcome, answer = "dropped", _Dropped()
            case "drops late":
                outcome, answer = take(listing, bytes(body))[0] + ", answer dropped", _Dropped()
            case _:
                outcome, answer = take(listing, bytes(body))
        self._journal.note(
            channel, listing, request.headers.get("x-message-id"), received_at, _moment(request.headers.get("x-requested-at")), outcome
        )
        return answer

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        confirming = asyncio.create_task(self._confirmations.run())
        yield
        confirming.cancel()
        with suppress(asyncio.CancelledError):
            await confirming


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _moment(text: str | None) -> float | None:
    try:
        moment = float(text) if text else None
    except ValueError:
        return None
    return moment if moment is not None and math.isfinite(moment) else None


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = argparse.ArgumentParser(description="Three sales channels on 127.0.0.1.")
    options.add_argument("--port", type=int, default=0, help="0: any free one; it is printed as JSON")
    options.add_argument("--xsd", default="auto", help="the AlpineBits schema, none, or auto: the shared data's where present")
    chosen = options.parse_args()
    schema = find_schema() if chosen.xsd == "auto" else None if chosen.xsd == "none" else Path(chosen.xsd)
    app = ChannelServer(read_schema(schema) if schema else None).app()
    serve(app, chosen.port, http=_Protocol, server_header=False, date_header=False, proxy_headers=False)


if __name__ == "__main__":
    main()
