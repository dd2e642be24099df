"""The socket of the gateway: bound once by the supervisor, so that it is never closed while gateways come and go."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from typing import Final

from chappe.errors import InvalidSettings
from chappe.settings import place_of

log = logging.getLogger("chappe.supervisor")

_PATIENCE: Final = 5.0  # seconds: the gateway of a supervisor that was killed may be about to end
_LOOK: Final = 0.1
BACKLOG: Final = 2048


async def listen(host: str, port: int, stopping: asyncio.Event) -> socket.socket | None:
    """Return a listening socket, or nothing if we are asked to end meanwhile; raises `InvalidSettings` if it cannot be had."""
    deadline, said = time.monotonic() + _PATIENCE, False
    while not stopping.is_set():
        try:
            return bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise InvalidSettings(
                    f"the gateway cannot listen on {place_of(host, port)}: {error.strerror or error}; choose another with --port"
                ) from None
        if not said:
            log.warning("waiting for %s: another process has it", place_of(host, port))
            said = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _LOOK)
    return None


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Raises `OSError`."""
    ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
