"""A process of many clients that listen: `python -m benchmarks.listeners websocket|sse|peer PORT CLIENTS EVENTS`.

It tells how long each event took, from the time that stands in it until the last client had it. The client must take little of the
machine: only of the first client's bytes more is read than their number.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Final, cast

from benchmarks import cue
from benchmarks.meters import percentile

UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
_AT = re.compile(rb'"at":(\d+\.\d+)')
_QUIET = 0.5
PATIENCE = 60.0


class _Heard:
    """What all clients heard: after each event all have had as many bytes as the first one."""

    def __init__(self, clients: int, events: int) -> None:
        self.clients, self.events = clients, events
        self.total = self.first = 0
        self.sent: list[tuple[int, float]] = []  # the bytes up to the end of each event, and when it was sent
        self.took: list[float] = []
        self.done = asyncio.get_running_loop().create_future()

    def take(self, data: memoryview, *, is_first: bool) -> None:
        """Count bytes, and look whether the last client has an event now."""
        self.total += len(data)
        if is_first:
            self.first += len(data)
            self.sent += [(self.first, float(at)) for at in _AT.findall(data)]
        while len(self.took) < len(self.sent) and self.total >= self.clients * self.sent[len(self.took)][0]:
            self.took.append(time.time() - self.sent[len(self.took)][1])
        if len(self.took) >= self.events and not self.done.done():
            self.done.set_result(None)


class _Client(asyncio.BufferedProtocol):
    """Counts from when all are connected and quiet.

    All read into the same room: a new 256 KiB for each read, as `asyncio.Protocol` has it, costs more than what a server is measured by.
    """

    _ROOM: Final = memoryview(bytearray(64 * 1024))

    def __init__(self, request: bytes, welcome: bytes) -> None:
        self._request, self._welcome, self._begin = request, welcome, b""
        self.welcomed = asyncio.get_running_loop().create_future()
        self.heard: _Heard | None = None
        self.is_first = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._ROOM

    def buffer_updated(self, nbytes: int) -> None:
        if self.heard is not None:
            self.heard.take(self._ROOM[:nbytes], is_first=self.is_first)
        elif not self.welcomed.done():
            self._begin += self._ROOM[:nbytes]
            if self._welcome in self._begin:
                self.welcomed.set_result(None)


async def main(kind: str, port: int, clients: int, events: int) -> None:
    """Listen and tell."""
    loop = asyncio.get_running_loop()
    path, more = ("/events?live=sse&pattern=kept", "") if kind == "sse" else ("/events?pattern=kept", UPGRADE)
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}\r\n".encode()
    welcome = b"\r\n\r\n" if kind == "peer" else b"chappe.position"
    all_of_them: list[_Client] = []
    for begin in range(0, clients, 50):
        some = [loop.create_connection(lambda: _Client(request, welcome), "127.0.0.1", port) for _ in range(min(50, clients - begin))]
        all_of_them += [client for _, client in await asyncio.gather(*some)]
        await asyncio.gather(*(client.welcomed for client in all_of_them[begin:]))
    await asyncio.sleep(_QUIET)  # the rest of a welcome
    heard = _Heard(clients, events)
    for client in all_of_them:
        client.heard = heard
    all_of_them[0].is_first = True
    cue.tell("ready")
    async with asyncio.timeout(PATIENCE + events):
        await heard.done
    cue.tell({"p50": percentile(heard.took, 0.5), "p99": percentile(heard.took, 0.99)})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:5])))
