"""One request, one answer, whatever a client sends: bounds of time and size, trailers, upgrades, and how many connections there may be."""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final, cast

import httptools
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chappe.web.peer import user_behind
from chappe.web.problems import problem
from chappe.web.push import PUSH, Push, PushWebSocket

HEAD_WITHIN: Final = 10.0  # seconds for the request line and the headers
GONE_WITHIN: Final = 2.0  # seconds for a client that was turned away to read why: closing at once would take the answer back
BODY_WITHIN: Final = 60.0  # seconds for the body and its trailers: 1 MiB at 18 KiB/s
LINGER: Final = 2.0  # seconds after which a connection without a request is closed, when the gateway ends
LARGEST_HEAD: Final = 64 * 1024  # bytes of a head, or around the parts of a body, that do not end
LARGEST_REST: Final = 1024 * 1024  # bytes of a body that still come when its answer was sent
_FRAMING: Final = 16  # bytes around each byte of a body that a client may need: chunks can be that small
_LEAST_KEPT: Final = 44  # descriptors for everything that is not a connection, and for those that are taken before one is closed
_LONGEST_BACKLOG: Final = 2048


class HttpProtocol(Push, HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with a deadline for each part of a request, a bound for what surrounds its body, and problem documents.

    A client whose answer is being made is not hurried. Trailers are dropped, and an upgrade to anything but a WebSocket is a
    request like any other.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._stage = "idle"
        self._since = 0.0
        self._spare = LARGEST_HEAD
        self._rest = 0
        self._user: int | None = None
        self._ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        self._user = user_behind(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        self._allow(HEAD_WITHIN)
        if len(self.connections) > most_connections():
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._allow(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._stage == "gone":
            self._drop(len(data))
            return
        self._spare -= len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(
                problem(400, "The request is not HTTP", "write the lines, Content-Length and Transfer-Encoding as RFC 9112 has them")
            )
            return
        if self.transport.is_closing() or self._stage == "upgraded":
            return
        if self._stage != "idle" and self._spare < 0:
            self._refuse(
                problem(431, "The headers are too large", f"at most {LARGEST_HEAD} bytes are taken, trailers and chunks' sizes too")
            )
        elif self._stage == "body" and self.cycle.response_complete:
            self._drop(len(data))
        elif self._deadline is None and self._answered:  # even an empty line counts: it stopped the time-out of an idle connection
            self._allow(HEAD_WITHIN)

    def _drop(self, size: int) -> None:
        """Take no more than a rest of what nobody reads."""
        self._rest += size
        if self._rest > LARGEST_REST:
            self.transport.close()

    def _feed(self, data: bytes) -> None:
        """Have the parser read; a request that asks for an upgrade is read again without that, for then its body is a body."""
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                if self._becomes_websocket():
                    self._hand_over(bytes(rest))
                    return
                head = _without_upgrade(self.parser, self.url, self.headers)
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
                self.parser.feed_data(head)

    def _becomes_websocket(self) -> bool:
        """Tell whether what asks for an upgrade is a handshake of a WebSocket, and nothing before it waits for its answer."""
        is_get = self.parser.get_method() == b"GET" and self.parser.get_http_version() == "1.1" and self.url.startswith(b"/")
        return is_get and self._should_upgrade() and self._answered and not self.pipeline

    def _hand_over(self, rest: bytes) -> None:
        """Leave the connection to a WebSocket: nothing of this protocol is to touch it any more."""
        self._allow(None)
        self._stage = "upgraded"
        self.connections.discard(self)
        protocol = cast("type[PushWebSocket]", self.ws_protocol_class)(self.config, self.server_state, self.app_state)
        protocol.user = self._user
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        head = [b"GET %b HTTP/1.1" % self.url, *(b"%b: %b" % header for header in self.headers), b"", b""]
        protocol.data_received(b"\r\n".join(head) + rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"chappe.user": {"id": self._user}, PUSH: self}  # pyright: ignore[reportGeneralTypeIssues]
        self._stage, self._since, self._spare, self._rest = "head", self.loop.time(), LARGEST_HEAD, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage == "head":  # a trailer says nothing that is believed (RFC 9110 §6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")
        if self.parser.should_upgrade():
            return
        if not self.url.startswith((b"/", b"*")):
            raise ValueError("a whole address, as a proxy is sent it, would make the Host header mean nothing")
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise ValueError("another version's rules are not known here")
        for name, value in self.headers:
            if name == b"transfer-encoding" and (value.strip().lower() != b"chunked" or version == "1.0"):
                raise ValueError("a body in another encoding has no end that we could see")  # RFC 9112 §6.3
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False
        self._stage, self._since = "body", self.loop.time()
        self._allow(BODY_WITHIN)

    def on_body(self, body: bytes) -> None:
        self._spare = min(LARGEST_HEAD, self._spare + (1 + _FRAMING) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._stage = "idle"
        self._allow(None)

    def on_response_complete(self) -> None:
        if self.cycle.disconnected and not self.transport.is_closing():  # it was broken while the one before it was answered
            self.transport.close()
        if self._stage == "body" and self.cycle.response_complete:
            self._allow(HEAD_WITHIN)  # nobody waits for the rest of the body
        super().on_response_complete()

    def shutdown(self) -> None:
        """Answer the request that may be on its way, and end: whoever sends it knows nothing of our end (RFC 9112 §9.6)."""
        self._ending = True
        self.send_away()
        if self._answered:
            self.loop.call_later(LINGER, self._end_if_idle)
        else:
            self.cycle.keep_alive = False

    def _end_if_idle(self) -> None:
        if self._stage == "idle" and self._answered:
            self.transport.close()
        elif not self.transport.is_closing():
            self.loop.call_later(LINGER, self._end_if_idle)

    @property
    def _answered(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison] - None before the first

    def _allow(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        self._deadline = None
        if self._stage == "body" and self.flow.read_paused and not self.cycle.response_complete:  # it is us who do not read
            self._allow(BODY_WITHIN)
        elif self._stage in ("idle", "gone"):
            self.transport.close()
        else:
            what, most = ("headers", HEAD_WITHIN) if self._stage == "head" else ("body", BODY_WITHIN)
            self._refuse(problem(408, f"The {what} did not come in time", f"at most {most:g} seconds are given"))

    def _make_room(self) -> None:
        """Close the connection whose client has been silent or slow for longest; refuse this one if all others wait for us."""
        others = [other for other in cast("set[HttpProtocol]", self.connections) if other is not self and other.silence is not None]
        min(others, key=lambda other: other.silence or (0, 0.0), default=self).give_up()

    @property
    def silence(self) -> tuple[int, float] | None:
        """Who is given up first: 0 before it said what it wants, 1 between requests, and since when; None for who waits."""
        if self.transport.is_closing() or self.pipeline:
            return None
        if self._stage == "body":
            slow = self.cycle.response_complete or not (self.flow.read_paused or self.cycle.response_started)
            return (0, self._since) if slow else None
        if self._stage != "gone" and not self._answered:
            return None
        began = self._stage != "idle" or self.cycle is None  # pyright: ignore[reportUnnecessaryComparison] - None before the first
        return (0 if began else 1, self._since)

    def give_up(self) -> None:
        """Hang up, and say why to a client that has begun to speak or that has just come."""
        if self._stage in ("head", "body") or self.cycle is None:  # pyright: ignore[reportUnnecessaryComparison]
            self._refuse(problem(503, "There are too many connections", "try again in a moment", headers={"Retry-After": "1"}))
        self.transport.close()

    def _refuse(self, answer: Response) -> None:
        """Answer what does not become a request, and hang up; a request before it is answered first, for it may have been stored."""
        if self._stage != "body" and not self._answered:
            self.cycle.keep_alive = False
        elif self._stage == "body" and self.pipeline:
            self.cycle.disconnected = True
        elif self._stage == "body" and self.cycle.response_started:
            self.transport.close()
        else:
            if self._stage == "body":
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._turn_away(answer)

    def _turn_away(self, answer: Response) -> None:
        """Answer without the application, and hang up."""
        headers = [*answer.raw_headers, (b"connection", b"close"), (b"cache-control", b"no-store")]
        lines = [
            b"HTTP/1.1 %d %s" % (answer.status_code, _PHRASES[answer.status_code]),
            *(b": ".join(header) for header in headers),
            b"",
            b"",
        ]
        self.transport.write(b"\r\n".join(lines) + bytes(answer.body))
        self.transport.write_eof()
        self._stage, self._rest = "gone", 0
        self._allow(GONE_WITHIN)


def most_connections() -> int:
    """Return how many connections this process can hold and still open what it needs itself."""
    allowed, kept = _descriptors()
    return max(1, allowed - kept)


def backlog() -> int:
    """Return how many connections may wait to be taken: asyncio takes as many in each turn, and closes one two turns later."""
    _, kept = _descriptors()
    return min(_LONGEST_BACKLOG, kept // 4)


def _descriptors() -> tuple[int, int]:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed, max(_LEAST_KEPT, allowed // 8)


def _without_upgrade(parser: Any, url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a request as one that wants no other protocol (RFC 9110 §7.8 lets a server ignore that)."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            lines += [b"connection: " + option for option in options if option.lower() != b"upgrade"]
        elif name != b"upgrade":
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


_PHRASES: Final = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}
