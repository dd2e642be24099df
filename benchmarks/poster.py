"""A process that posts commands over keep-alive connections, one at a time on each: `python -m benchmarks.poster PORT 64 5.0`.

The request is made once, and of the answers only the status and the length are read: the client must take little of the machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import msgspec

from benchmarks.meters import percentile
from benchmarks.payload import FIELDS

WARM = 0.5


class _Posts:
    """What all connections saw."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.counting = False
        self.ending = False
        self.took: list[float] = []
        self.others = 0


class _Connection(asyncio.Protocol):
    """Posts again as soon as it is answered."""

    def __init__(self, posts: _Posts) -> None:
        self._posts = posts
        self._answer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._post()

    def _post(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._posts.request)

    def data_received(self, data: bytes) -> None:
        answer = self._answer = self._answer + data
        head = answer.find(b"\r\n\r\n")
        if head < 0:
            return
        place = answer.lower().find(b"content-length:")
        if len(answer) < head + 4 + int(answer[place + 15 : answer.find(b"\r", place)]):
            return
        posts = self._posts
        if not answer.startswith(b"HTTP/1.1 202"):
            posts.others += 1
        if posts.counting:
            posts.took.append(time.perf_counter() - self._sent)
        self._answer = b""
        if not posts.ending:
            self._post()


async def main(port: int, connections: int, seconds: float) -> None:
    """Post for some seconds and tell."""
    body = msgspec.json.encode(FIELDS)
    head = (
        f"POST /commands/noop HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    posts = _Posts(head.encode() + body)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(posts), "127.0.0.1", port)
    await asyncio.sleep(WARM)
    posts.counting = True
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    posts.counting = False
    took = time.perf_counter() - started
    told = {"answers": len(posts.took), "others": posts.others, "seconds": took, "cpu": time.process_time() - cpu}
    posts.ending = True
    print(json.dumps({**told, "p99": percentile(posts.took, 0.99)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
