"""Serves an application on 127.0.0.1, as a process that says on stdout where it listens and ends in exit code 0."""

from __future__ import annotations

import json
import signal
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp


def _already_stopping(*_: object) -> None:
    """The signal was obeyed."""


class _Announced(uvicorn.Server):
    """Says on stdout, in one line, that it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            print(json.dumps({"port": sockets[0].getsockname()[1]}), flush=True)


def serve(application: ASGIApp, port: int = 0, **options: Any) -> None:
    """Serve until SIGTERM or SIGINT, on a free port if it is 0; `options` are more of uvicorn's."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    # uvicorn repeats a signal after it has shut down; so it ends in exit code 0 instead of a death by signal.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _already_stopping)
    usual: dict[str, Any] = {"ws": "none", "access_log": False, "log_level": "warning", "timeout_graceful_shutdown": 1}
    # Long: a sender's idle connection must not be closed in the moment in which it is used again.
    _Announced(uvicorn.Config(application, timeout_keep_alive=120, **(usual | options))).run(sockets=[listening])
