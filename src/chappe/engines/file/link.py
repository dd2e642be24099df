"""The client's end of the Unix socket to the engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol, cast

from chappe.engines.file.owner import is_of_this_user
from chappe.engines.file.wire import AT_ONCE


class Linked(Protocol):
    """Who speaks over a link."""

    def linked(self, link: object, write: Callable[[bytes], None], close: Callable[[], None]) -> None: ...
    def received(self, link: object, data: bytes | memoryview) -> None: ...
    def unlinked(self, link: object) -> None: ...


class Link(asyncio.BufferedProtocol):
    """The client's end of the Unix socket."""

    def __init__(self, client: Linked) -> None:
        self._client = client
        self._room = memoryview(bytearray(AT_ONCE))
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's transports do not inherit from asyncio's
        if not is_of_this_user(stream.get_extra_info("socket")):
            stream.abort()  # somebody poses as the engine
            return
        self._transport = stream
        self._client.linked(self, stream.write, stream.close)

    def leave(self) -> None:
        """Have this process hold the socket no more: not by closing the transport, which its event loop shares with the parent's."""
        if self._transport is None or self._transport.is_closing():
            return
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, self._transport.get_extra_info("socket").fileno(), inheritable=False)
        os.close(nothing)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self._client.received(self, self._room[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._client.unlinked(self)
