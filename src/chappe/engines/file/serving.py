"""Serves a file to the processes of this host, over the Unix socket beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

import apsw

from chappe.engines.file.connection import Connection
from chappe.engines.file.owner import is_of_this_user, socket_path
from chappe.engines.file.server import Engine
from chappe.engines.file.wire import AT_ONCE, UNREADABLE, Frames, decode_request
from chappe.output import end_now

log = logging.getLogger("chappe.file")


class _Served(asyncio.BufferedProtocol):
    """A client on the Unix socket."""

    def __init__(self, engine: Engine, room: bytearray) -> None:
        """Prepare; `room` is what all clients of an event loop are read into, one after the other."""
        self._engine = engine
        self._room = memoryview(room)
        self._frames = Frames()
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        if not is_of_this_user(transport.get_extra_info("socket")):
            log.warning("refused a connection of another user")
            transport.abort()
            return
        self._connection = self._engine.attach(transport.write, transport.abort)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        try:
            for body in self._frames.feed(self._room[:nbytes]):
                self._engine.submit(connection, decode_request(body))
        except (*UNREADABLE, ValueError) as error:
            log.warning("dropped a client that does not speak the protocol: %s", error)
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._engine.detach(self._connection)


async def serve(path: Path, ready: Callable[[], None] = lambda: None, *, engine: Engine | None = None) -> None:
    """Serve a file until cancelled. Raises what opening it raises, and the `apsw.IOError` that ended it.

    `engine` is one that was made in this event loop already, for tests with a clock of their own.
    """
    engine = engine or Engine(path)
    room = bytearray(AT_ONCE)
    address = socket_path(path)
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(address))
        address.chmod(0o600)  # where the mode of the descriptor says nothing
        server = await asyncio.get_running_loop().create_unix_server(lambda: _Served(engine, room), sock=listener, backlog=1024)
    except BaseException:
        listener.close()
        raise
    try:
        ready()
        error = await asyncio.shield(engine.stopped)
        if error is not None:
            raise error
    finally:
        server.close()
        address.unlink(missing_ok=True)
        if engine.stopped.done() and engine.stopped.result() is not None:
            failed = isinstance(engine.stopped.result(), apsw.IOError)
            end_now(74 if failed else 78)  # closing the file could write to the failed disk again
        engine.close()
