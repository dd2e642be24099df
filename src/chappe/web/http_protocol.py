"""How long a client may take to say what it wants: nobody holds a connection by speaking slowly, or by never ending."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chappe.web.problems import problem

HEAD_WITHIN: Final = 10.0  # seconds for the request line and the headers
BODY_WITHIN: Final = 60.0  # seconds for the body: 1 MiB at 18 KiB/s
LARGEST_HEAD: Final = 64 * 1024  # bytes that are kept of a head that does not end


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with a deadline for the head and the body of each request, and problem documents.

    A client that has said nothing yet, and one whose answer is being made, is not hurried.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._stage = "idle"
        self._begun = False
        self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._allow(HEAD_WITHIN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._allow(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._begun = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._stage == "head" and not self._begun:
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self._turn_away(problem(431, "The headers are too large", f"at most {LARGEST_HEAD} bytes are taken"))
                return
        if self._deadline is None and self._answered:  # even an empty line counts: it stopped the time-out of an idle connection
            self._allow(HEAD_WITHIN)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stage, self._begun, self._head = "head", True, 0

    def on_headers_complete(self) -> None:
        if not self.url.startswith((b"/", b"*")):
            raise ValueError("a whole address, as a proxy is sent it, would make the Host header mean nothing")
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                raise ValueError("a body in another encoding has no end that we could see")  # RFC 9112 §6.3
        super().on_headers_complete()
        self._stage = "body"
        self._allow(BODY_WITHIN)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stage = "idle"
        self._allow(None)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; a request before it is answered first, for it may have been stored."""
        broken = self._stage == "body" and not self.cycle.response_started and not self.pipeline
        if not self._answered and not broken:
            self.cycle.keep_alive = False
            return
        self._turn_away(
            problem(400, "The request is not HTTP", "write the lines, Content-Length and Transfer-Encoding as RFC 9112 has them")
        )

    def _unsupported_upgrade_warning(self) -> None:
        """Go on in HTTP/1.1, as RFC 9110 §7.8 allows, and say nothing: any client could fill the log with it."""

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
        if self._stage == "body" and self.flow.read_paused:  # it is us who do not read
            self._allow(BODY_WITHIN)
        elif self._stage == "idle" or (self._stage == "body" and self.cycle.response_started):
            self.transport.close()
        else:
            what, most = ("headers", HEAD_WITHIN) if self._stage == "head" else ("body", BODY_WITHIN)
            self._turn_away(problem(408, f"The {what} did not come in time", f"at most {most:g} seconds are given"))

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
        self.transport.close()


_PHRASES: Final = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
