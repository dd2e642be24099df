"""The socket of the gateway, bound once by the supervisor so that it is never closed while gateways come and go, and who has its port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from pathlib import Path
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


def refuse_address(host: str, port: int, path: Path) -> str:
    """Raise `InvalidSettings` if the gateway cannot listen there; return who does already, if it is the gateway of this file.

    A gateway whose supervisor died is let be: it is about to end, and is waited for when the next one starts.
    """
    try:
        bound(host, port).close()
        return ""
    except OSError as error:
        fault = error
    if fault.errno != errno.EADDRINUSE:
        raise InvalidSettings(f"the gateway cannot listen on {place_of(host, port)}: {fault.strerror or fault}; see --host and --port")
    is_ours, text = _holder(port, _supervisor_of(path))
    if not is_ours:
        raise InvalidSettings(
            f"the gateway cannot listen on {place_of(host, port)}: {text} has that port; end it, "
            "or take another port: --port, CHAPPE_PORT, or port in chappe.toml"
        )
    return text


def _supervisor_of(path: Path) -> int | None:
    try:
        return int(Path(f"{path.resolve()}.supervisor.lock").read_text())
    except (OSError, ValueError):
        return None


def _holder(port: int, supervisor: int | None) -> tuple[bool, str]:
    """Tell whether the process that listens there is ours or ends soon, and return words for it."""
    import psutil  # 1 MB that is needed in this case only

    try:
        found = [c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port]
        process = psutil.Process(next(pid for pid in found if pid))
        name, above = process.name(), [parent for parent in (process, *process.parents()) if parent.name().startswith("chappe")]
    except (psutil.Error, StopIteration):
        return False, "another process"
    try:
        place = f" in {process.cwd()}"
    except psutil.Error:
        place = ""
    text = f"process {process.pid} ({name}{place})"
    ours = any(one.pid == supervisor for one in above)
    left = bool(above) and above[0].pid == process.pid and not any(one.name().startswith("chappe superv") for one in above)
    return ours or left, text
