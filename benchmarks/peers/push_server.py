"""Servers that tell their clients something ten times a second: `python -m benchmarks.peers.push_server send_text|raw EVENTS`.

*send_text* is Starlette's in a loop over all clients, *raw* asyncio's protocols with a frame that is made once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import sys
import time
from typing import cast

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks import cue

EVERY = 0.1
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def _event() -> str:
    return f'{{"at":{time.time():.6f},"text":"{"x" * 300}"}}'


async def _wait_for_the_word() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def send_text(events: int) -> None:
    """Serve with uvicorn and Starlette."""
    clients: set[WebSocket] = set()

    async def listen(websocket: WebSocket) -> None:
        await websocket.accept()
        clients.add(websocket)
        with contextlib.suppress(WebSocketDisconnect):
            await websocket.receive_text()

    server = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=[WebSocketRoute("/events", listen)]), host="127.0.0.1", port=0, log_config=None, ws_per_message_deflate=False,
            ws="websockets-sansio", backlog=4096,
        )
    )  # fmt: skip
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    cue.tell(server.servers[0].sockets[0].getsockname()[1])
    await _wait_for_the_word()
    for _ in range(events):
        text = _event()
        for client in clients:
            await client.send_text(text)
        await asyncio.sleep(EVERY)
    await _wait_for_the_word()
    server.should_exit = server.force_exit = True
    await serving


class _Raw(asyncio.Protocol):
    """A WebSocket that is upgraded and written to."""

    clients: set[asyncio.Transport] = set()  # noqa: RUF012 - of one process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._head = cast("asyncio.Transport", transport), b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head:
            (key,) = [line.split(b":")[1].strip() for line in self._head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")]
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
            head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
            self._transport.write(head % accept)
            self.clients.add(self._transport)


async def raw(events: int) -> None:
    """Serve with asyncio alone."""
    server = await asyncio.get_running_loop().create_server(_Raw, "127.0.0.1", 0, backlog=4096)
    cue.tell(server.sockets[0].getsockname()[1])
    await _wait_for_the_word()
    for _ in range(events):
        text = _event().encode()
        frame = b"\x81\x7e" + len(text).to_bytes(2, "big") + text
        for client in _Raw.clients:
            client.write(frame)
        await asyncio.sleep(EVERY)
    await _wait_for_the_word()


if __name__ == "__main__":
    asyncio.run({"send_text": send_text, "raw": raw}[sys.argv[1]](int(sys.argv[2])))
