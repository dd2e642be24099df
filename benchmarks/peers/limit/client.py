"""The two ways to ask the limit's engine: awaiting answers in an event loop, and blocking for one at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, cast

from benchmarks.peers.limit.wire import BATCH, CLAIM, PUBLISH, SOCKET, frame, frames

Row = tuple[str, str, bytes]
"""Type, headers and body of a message."""


class Client(asyncio.Protocol):
    """Any number of requests at once."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._serial = 0

    @classmethod
    async def connect(cls) -> Client:
        """Connect to the engine of this folder."""
        return (await asyncio.get_running_loop().create_unix_connection(cls, SOCKET))[1]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for serial, answer in frames(self._buffer):
            self._waiting.pop(serial).set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self._waiting.values():
            future.set_exception(EOFError("the limit's engine ended"))

    def publish(self, rows: Sequence[Row]) -> asyncio.Future[None]:
        """Make messages durable."""
        return self._ask(PUBLISH, rows, 0)

    def claim(self, done: Sequence[int]) -> asyncio.Future[list[Any]]:
        """Forget messages that are done, and wait for others."""
        return self._ask(CLAIM, done, BATCH)

    def _ask(self, verb: int, argument: Any, limit: int) -> asyncio.Future[Any]:
        self._serial += 1
        self._transport.write(frame((verb, self._serial, argument, limit)))
        future = self._waiting[self._serial] = asyncio.get_running_loop().create_future()
        return future


class BlockingClient:
    """One request at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(SOCKET)
        self._buffer = bytearray()

    def publish(self, rows: Sequence[Row]) -> None:
        """Make messages durable."""
        self._socket.sendall(frame((PUBLISH, 0, rows, 0)))
        while not frames(self._buffer):
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError("the limit's engine ended")
            self._buffer += data
