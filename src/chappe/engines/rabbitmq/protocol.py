"""AMQP's frames on asyncio's own transports, read and written by pika's codecs.

pika's connections poll the socket by themselves: they send each frame of a message with a system call of its own, read 4 KiB at
a time, and trip over their assertions when an opening is given up during the handshake. What comes by thousands, deliveries and
confirmations, does not pass through pika's codecs: they decode each into a dozen objects.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from pika import frame, spec

from chappe.engines.rabbitmq.reading import Message, NotRead, complete, confirmation, delivery, is_delivery

log = logging.getLogger("chappe.rabbitmq")

UNREADABLE: Final = "chappe-unreadable"
_MUCH: Final = 8_192
_LOOKS: Final = 4  # at silence, in a heartbeat: RabbitMQ sends two, and the last look may be just too early
_PATIENCE: Final = 2  # heartbeats
_AT_ONCE: Final = 1 << 16  # bytes that are read at once, into room that is there already: asking for new bytes each time costs more
_CLOSED: Final = "the connection was closed by the other side"
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_HEADER: Final = struct.Struct(">BHIHHQ")  # the frame's type, channel and size; then the class, a weight and the size of the body


class Heard(NamedTuple):
    """A method that RabbitMQ said, and the content that came with it, if any."""

    channel: int
    method: Any
    properties: Any = None
    body: bytes = b""


class _Content:
    """A method whose content has not come as a whole."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.header: frame.Header | None = None
        self.body = bytearray()


class Protocol(asyncio.BufferedProtocol):
    """One connection: `on_heard` is told what is neither lent nor confirmed, `on_end` once why it is no more."""

    def __init__(self, on_heard: Callable[[Heard], None], on_end: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream: asyncio.Transport | None = None
        self.lends: dict[str, Callable[[Message], None]] = {}  # by the consumer's tag
        self.on_confirmed: Callable[[int, bool], None] = lambda _, __: None
        self._room = memoryview(bytearray(_AT_ONCE))
        self.received = 0  # bytes
        self._rest = b""
        self._contents: dict[int, _Content] = {}
        self._outbox: list[bytes] = []
        self._waiting = 0
        self._deaf = False
        self._heard = 0
        self._silent = 0
        self._watcher: asyncio.TimerHandle | None = None
        self._on_heard = on_heard
        self._on_end = on_end
        self._cause: str | None = None
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def abort(self, why: str) -> None:
        """Close the socket now; what was not sent is dropped, and what was not read is not listened to."""
        self._deaf = True
        self._cause = self._cause or why
        if self._stream is not None:
            self._stream.abort()

    def end(self) -> None:
        """Close the socket when all that was said is sent."""
        self.flush()
        if self._stream is not None:
            self._stream.close()

    def say(self, channel: int, method: Any) -> None:
        """Send a method without content. Raises pika's errors for what it cannot encode, before anything is sent."""
        self.emit(frame.Method(channel, method).marshal())

    def emit(self, data: bytes) -> None:
        """Send bytes behind what was said before; what is much goes out at once, so that RabbitMQ begins with it."""
        if not self._outbox:
            self._loop.call_soon(self.flush)
        self._outbox.append(data)
        self._waiting += len(data)
        if self._waiting > _MUCH:
            self.flush()

    def flush(self) -> None:
        """Have the kernel carry what was said; without, it happens in the loop's next turn."""
        if not self._outbox:
            return
        if self._stream is not None and not self._stream.is_closing():
            self._stream.write(b"".join(self._outbox))
        self._outbox.clear()
        self._waiting = 0

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast("asyncio.Transport", transport)  # uvloop's transports do not inherit from asyncio's
        _keep_alive(self._stream.get_extra_info("socket"))
        self.emit(frame.ProtocolHeader().marshal())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._room[:nbytes])
        self.received += nbytes  # also those of a message that has not come as a whole: it is no silence
        try:
            self._rest = self._read(self._rest + data if self._rest else data)
        except Exception as error:  # whatever it was: this connection ends, and says why
            log.exception("what RabbitMQ sent was not understood")
            self.abort(str(error) or repr(error))

    def _read(self, data: bytes) -> bytes:
        """Take in what has come as a whole, deliveries and confirmations by ourselves and all else by pika; give what is left."""
        start = 0
        while (end := complete(data, start)) and not self._deaf:
            try:
                if is_delivery(data, start):
                    found = delivery(data, start, end)
                    if found is None:
                        break
                    after, consumer, message = found
                    if consumer in self.lends:
                        self._lend(consumer, message)
                        start = after
                        continue
                elif (confirmed := confirmation(data, start)) is not None:
                    self.on_confirmed(*confirmed)
                    start = end
                    continue
            except NotRead:
                pass
            self._take(_decoded(data[start:end]))
            start = end
        return data[start:] if start else data

    def _lend(self, consumer: str, message: Message) -> None:
        try:
            self.lends[consumer](message)
        except Exception:  # it is the caller's; the frames behind it must be read all the same
            log.exception('a message for the consumer "%s" was not taken', consumer)

    def _take(self, found: frame.Frame | frame.ProtocolHeader | None) -> None:
        """Take in a frame that pika has read."""
        if isinstance(found, frame.Method):
            method: Any = cast("Any", found).method
            if spec.has_content(method.INDEX):
                self._contents[found.channel_number] = _Content(method)
            else:
                self._on_heard(Heard(found.channel_number, method))
        elif isinstance(found, frame.Header | frame.Body):
            content = self._contents[found.channel_number]
            if isinstance(found, frame.Header):
                content.header = found
            else:
                content.body += found.fragment
            if content.header is not None and len(content.body) >= content.header.body_size:
                del self._contents[found.channel_number]
                self._came(Heard(found.channel_number, content.method, content.header.properties, bytes(content.body)))

    def _came(self, heard: Heard) -> None:
        _, method, properties, body = heard
        if isinstance(method, spec.Basic.Deliver) and method.consumer_tag in self.lends:
            tag, again = method.delivery_tag, method.redelivered
            self._lend(method.consumer_tag, Message(tag, again, text(method.exchange), text(method.routing_key), properties, body))
        else:
            self._on_heard(heard)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream = None
        self._outbox.clear()
        if self._watcher is not None:
            self._watcher.cancel()
        try:
            self._on_end(self._cause or (_CLOSED if exc is None else str(exc) or repr(exc)))
        finally:
            self.gone.set_result(None)

    # --- heartbeats

    def watch(self, heartbeat: int) -> None:
        """Say from now on that somebody is here, and end a connection that is silent for two heartbeats of so many seconds.

        Looks are counted, not seconds: if it was this process that stood still, it looks only once, and then reads what has come.
        """
        self._silent = self._silent + 1 if self.received == self._heard else 0
        self._heard = self.received
        if self._silent < _PATIENCE * _LOOKS:
            self.emit(frame.Heartbeat().marshal())
            self._watcher = self._loop.call_later(heartbeat / _LOOKS, self.watch, heartbeat)
        else:
            self.abort(f"nothing was heard for {_PATIENCE * heartbeat} s")


def _decoded(data: bytes) -> frame.Frame | frame.ProtocolHeader | None:
    try:
        return frame.decode_frame(data)[1]
    except Exception as error:  # it depends on what somebody wrote into a header: pika's own errors, ValueError, OverflowError…
        if data[0] != spec.FRAME_HEADER:
            raise
        # Raised, it would end this connection, and the next one that is given the message.
        _, channel, _, _, _, length = _HEADER.unpack_from(data)
        return frame.Header(channel, length, spec.BasicProperties(headers={UNREADABLE: f"{type(error).__name__}: {error}"}))


def text(value: str | bytes) -> str:
    """Return a name as text; pika gives what is no UTF-8 as bytes, and foreign clients may choose such."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def _keep_alive(connected: socket.socket) -> None:
    """Have the kernel find a dead host where heartbeats are off; not by TCP_USER_TIMEOUT, which also ends a connection that is blocked."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in _KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
