"""Bytes that are made once and written to many connections as they are: WebSocket frames, and chunks of server-sent events."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

PUSH: Final = "chappe.push"  # the ASGI extension by which an application finds the connection of a request
MOST_BUFFERED: Final = 1024 * 1024  # bytes that are kept for a client that does not read
LARGEST_FRAME: Final = 64 * 1024  # bytes of a message that a client may send
MOST_FRAGMENTS: Final = 1024  # of one message
SPREAD: Final = 3.0  # seconds over which clients are sent away when a gateway ends, so that they do not come to the next all at once


class Push:
    """The part of a connection that takes bytes without waiting; it needs only the transport of uvicorn's protocols."""

    transport: Any
    close_sent = False  # nothing may follow a close frame
    choked = False  # the transport holds more than its high-water mark (64 KiB)
    _leaving: asyncio.Future[None] | None = None

    def pause_writing(self) -> None:
        self.choked = True
        cast("Any", super()).pause_writing()

    def resume_writing(self) -> None:
        self.choked = False
        cast("Any", super()).resume_writing()

    def push(self, data: bytes) -> bool:
        """Write without waiting; False if the client is gone, or is hung up on because it does not read."""
        transport: asyncio.Transport = self.transport
        if self.close_sent or transport.is_closing():
            return False
        if self.choked and transport.get_write_buffer_size() > MOST_BUFFERED:
            transport.abort()  # a word of farewell would wait behind the megabyte
            return False
        transport.write(data)
        return True

    @property
    def leaving(self) -> asyncio.Future[None]:
        """Done when the gateway ends and this client is to go."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_future()
        return self._leaving

    def send_away(self) -> bool:
        """Have whoever listens on this connection go within some seconds, or tell that nobody does."""
        if self._leaving is None:
            return False
        leaving = self._leaving
        asyncio.get_running_loop().call_later(random.random() * SPREAD, lambda: leaving.done() or leaving.set_result(None))
        return True


class PushWebSocket(Push, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, to which frames can be pushed."""

    silence = None  # who listens is never given up for somebody else: see `HttpProtocol`
    user: int | None = None

    async def run_asgi(self) -> None:
        self.scope["extensions"] = {"websocket.http.response": {}, "chappe.user": {"id": self.user}, PUSH: self}  # pyright: ignore
        await super().run_asgi()

    def handle_ping(self) -> None:
        """Answer, and hang up on who asks again and again and reads no answer."""
        super().handle_ping()
        if self.choked and self.transport.get_write_buffer_size() > MOST_BUFFERED:
            self.transport.abort()

    def handle_cont(self, event: Frame) -> None:
        """Take a fragment; those that are empty have no size that the largest frame bounds."""
        super().handle_cont(event)
        if len(self.frames) > MOST_FRAGMENTS and not self.close_sent:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()

    def keepalive_timeout(self) -> None:
        """Hang up on who does not answer; who has stopped reading would keep a closed transport open for ever."""
        if self.choked:
            self.transport.abort()
        else:
            super().keepalive_timeout()

    def shutdown(self) -> None:
        """Close, in a while where it listens."""
        if not self.send_away():
            super().shutdown()


def text_frame(text: bytes) -> bytes:
    """Return an unfragmented, unmasked and uncompressed text frame (RFC 6455 §5.2)."""
    n = len(text)
    if n < 126:
        return bytes((0x81, n)) + text
    return (b"\x81\x7e" + n.to_bytes(2, "big") if n < 65536 else b"\x81\x7f" + n.to_bytes(8, "big")) + text


def sse_chunk(text: bytes) -> bytes:
    """Return a server-sent event as one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(text), text)
