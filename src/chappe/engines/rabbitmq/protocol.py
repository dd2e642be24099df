"""pika's AMQP on asyncio's own transports.

pika's asyncio adapter polls the socket by itself: it sends each frame of a message with a system call of its own, reads 4 KiB at
a time, and trips over its assertions when an opening is given up during the handshake. What is overridden here are the methods
that pika leaves to its adapters, and how it reads a frame. What comes by thousands, deliveries and confirmations, does not pass
through pika: it decodes each into a dozen objects.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from pika import ConnectionParameters, frame, spec
from pika.channel import Channel
from pika.connection import Connection
from pika.exceptions import AMQPConnectionError, AMQPHeartbeatTimeout, StreamLostError

from chappe.engines.rabbitmq.reading import Message, NotRead, complete, confirmation, delivery, is_delivery

log = logging.getLogger("chappe.rabbitmq")

UNREADABLE: Final = "chappe-unreadable"
_MUCH: Final = 8_192
_LOOKS: Final = 4  # at silence, in a heartbeat: RabbitMQ sends two, and the last look may be just too early
_PATIENCE: Final = 2  # heartbeats
_CLOSED: Final = "the connection was closed by the other side"
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_HEADER: Final = struct.Struct(">BHIHHQ")  # the frame's type, channel and size; then the class, a weight and the size of the body


if TYPE_CHECKING:

    class _Pika(Connection):
        """What pika has for its adapters, and typeshed's stubs leave out."""

        bytes_received: int
        _error: Exception | None
        _frame_buffer: bytes

        def _on_stream_connected(self) -> None: ...
        def _on_stream_terminated(self, error: Exception | None) -> None: ...
        def _terminate_stream(self, error: Exception | None) -> None: ...
        def _on_data_available(self, data_in: bytes) -> None: ...

    class _PikaChannel(Channel):
        """The same of a channel."""

        _consumers: dict[str, Callable[[Channel, spec.Basic.Deliver, spec.BasicProperties, bytes], object]]

        def _on_deliver(self, method_frame: Any, header_frame: frame.Header, body: bytes) -> None: ...

else:
    _Pika = Connection
    _PikaChannel = Channel


class _Lending(_PikaChannel):
    """A channel that lends to a consumer until it is cancelled; pika rejects what is on its way, and RabbitMQ counts that as a delivery."""

    def _on_deliver(self, method_frame: Any, header_frame: frame.Header, body: bytes) -> None:
        lend = self._consumers.get(method_frame.method.consumer_tag)
        if lend is not None:
            lend(self, method_frame.method, header_frame.properties, body)
        else:
            super()._on_deliver(method_frame, header_frame, body)


class Protocol(_Pika, asyncio.Protocol):
    """One connection: pika says what is sent, asyncio carries it. `on_open` is called at most once, `on_end` once."""

    def __init__(self, parameters: ConnectionParameters, on_open: Callable[[], None], on_end: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream: asyncio.Transport | None = None
        self.lends: dict[str, Callable[[Message], None]] = {}  # by the consumer's tag
        self.on_confirmed: Callable[[int, bool], None] | None = None
        self._rest = b""
        self._outbox: list[bytes] = []
        self._waiting = 0
        self._deaf = False
        self._heard = 0
        self._silent = 0
        self._watcher: asyncio.TimerHandle | None = None
        self._on_open = on_open
        self._cause: Exception = StreamLostError(_CLOSED)
        self.gone: asyncio.Future[None] = self._loop.create_future()
        super().__init__(
            parameters,
            on_open_callback=self._opened_now,
            on_open_error_callback=lambda _, __: on_end(self._cause),
            on_close_callback=lambda _, __: on_end(self._cause),
            internal_connection_workflow=False,
        )

    def abort(self, why: Exception) -> None:
        """Close the socket now; what was not sent is dropped, and what was not read is not listened to."""
        self._deaf = True
        if self._stream is not None:
            self._terminate_stream(why)

    def emit(self, data: bytes) -> None:
        """Send bytes behind what was said before; what is much goes out at once, so that RabbitMQ begins with it."""
        self._adapter_emit_data(data)
        self._waiting += len(data)
        if self._waiting > _MUCH:
            self.flush()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast("asyncio.Transport", transport)  # uvloop's transports do not inherit from asyncio's
        _keep_alive(self._stream.get_extra_info("socket"))
        self._on_stream_connected()

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)  # also those of a message that has not come as a whole: it is no silence
        try:
            self._rest = self._read(self._rest + data if self._rest else data)
        except Exception as error:  # whatever it was: this connection ends, and says why
            log.exception("what RabbitMQ sent was not understood")
            self.abort(error)

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
                    lend = self.lends.get(consumer)
                    if lend is not None:
                        lend(message)
                        start = after
                        continue
                elif (confirmed := confirmation(data, start)) is not None and self.on_confirmed is not None:
                    self.on_confirmed(*confirmed)
                    start = end
                    continue
            except NotRead:
                pass
            self.bytes_received -= end - start  # pika counts them again
            self._on_data_available(data[start:end])
            start = end
        return data[start:] if start else data

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream = None
        self._outbox.clear()
        if self._watcher is not None:
            self._watcher.cancel()
        if exc is not None:
            self._cause = StreamLostError(str(exc) or repr(exc))
        elif self._error is not None:
            self._cause = self._error
        try:
            self._on_stream_terminated(AMQPConnectionError(str(self._cause)))  # from others pika guesses what the reason might be
        finally:
            self.gone.set_result(None)

    # --- what pika leaves to its adapters

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._outbox:
            self._loop.call_soon(self.flush)
        self._outbox.append(data)

    def flush(self) -> None:
        """Have the kernel carry what was said; without, it happens in the loop's next turn."""
        if not self._outbox:
            return
        if self._stream is not None and not self._stream.is_closing():
            self._stream.write(b"".join(self._outbox))
        self._outbox.clear()
        self._waiting = 0

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        cast("asyncio.TimerHandle", timeout_id).cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _adapter_connect_stream(self) -> None:
        raise NotImplementedError  # asyncio connects

    def _adapter_disconnect_stream(self) -> None:
        if self._stream is not None:
            self._stream.abort()

    # --- what pika does not do well enough

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> Channel:
        return _Lending(self, channel_number, on_open_callback)

    def _opened_now(self, _: Connection) -> None:
        if self.params.heartbeat:
            self._watch()
        self._on_open()

    def _watch(self) -> None:
        """End a connection that is silent for two heartbeats; pika takes up to twice 5 s more than one.

        Looks are counted, not seconds: if it was this process that stood still, it looks only once, and then reads what has come.
        """
        heartbeat = cast("int", self.params.heartbeat)
        self._silent = self._silent + 1 if self.bytes_received == self._heard else 0
        self._heard = self.bytes_received
        if self._silent < _PATIENCE * _LOOKS:
            self._watcher = self._loop.call_later(heartbeat / _LOOKS, self._watch)
        else:
            self.abort(AMQPHeartbeatTimeout(f"nothing was heard for {_PATIENCE * heartbeat} s"))

    def _read_frame(self) -> tuple[int, frame.Frame | frame.ProtocolHeader | None]:
        if self._deaf:
            return 0, None
        try:
            return frame.decode_frame(self._frame_buffer)
        except Exception as error:  # it depends on what somebody wrote into a header: pika's own errors, ValueError, OverflowError…
            if self._frame_buffer[0] != spec.FRAME_HEADER:
                raise
            # Raised, it would end this connection, and the next one that is given the message.
            _, channel, size, _, _, length = _HEADER.unpack_from(self._frame_buffer)
            properties = spec.BasicProperties(headers={UNREADABLE: f"{type(error).__name__}: {error}"})
            return spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE, frame.Header(channel, length, properties)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether pika may log this: what is refused on a connection of ours is raised as an error, and is no warning."""
    channel = record.args[-1] if isinstance(record.args, tuple) and record.args else None
    return not (isinstance(channel, Channel) and isinstance(channel.connection, Protocol))


logging.getLogger("pika.channel").addFilter(_is_news)


def _keep_alive(connected: socket.socket) -> None:
    """Have the kernel find a dead host where heartbeats are off; not by TCP_USER_TIMEOUT, which also ends a connection that is blocked."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in _KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
