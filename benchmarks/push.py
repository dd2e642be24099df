"""Push (row D13): from an event's archiving, or a peer's send, until the last of many clients of one gateway has it, ten a second."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncGenerator
from typing import Any

from benchmarks.scale import Scale
from benchmarks.stage import Session, Stage, until
from benchmarks.works import PUSH_P50, PUSH_P99, PUSH_SSE_P50, PUSH_SSE_P99, PUSH_UNREAD, Figure

_PYTHON = sys.executable
_UNREAD = 20


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Publish to clients of a gateway over WebSockets, then server-sent events, then over WebSockets beside clients that do not read."""
    for kind, median, tail in (("websocket", PUSH_P50, PUSH_P99), ("sse", PUSH_SSE_P50, PUSH_SSE_P99)):
        async with session.stage() as stage:
            told = await _pushed(stage, kind, await _gateway(stage), scale)
        yield Figure(median, 1e3 * told["p50"])
        yield Figure(tail, 1e3 * told["p99"])
    tails: list[float] = []
    for unread in (0, _UNREAD):
        async with session.stage() as stage:
            port = await _gateway(stage)
            silent = await stage.python("benchmarks.unread", port, str(unread))
            await silent.line()
            bulk = await stage.python("benchmarks.sender", "paced_bulk", json.dumps({"count": scale.pushed}))
            await bulk.line()
            bulk.go()
            tails.append((await _pushed(stage, "websocket", port, scale))["p99"])
            await bulk.line()
            silent.go()
            if (closed := await silent.line()) != unread:
                raise RuntimeError(f"the gateway closed {closed} of {unread} clients that do not read")
    yield Figure(PUSH_UNREAD, tails[1] / tails[0])


async def _gateway(stage: Stage) -> str:
    """Start a gateway, and return its port."""
    gateway = await stage.chappe("gateway", "--port", "0")
    await until(lambda: "gateway listens on" in gateway.log.read_text(), "the gateway")
    found = re.search(r"gateway listens on http://[\d.]+:(\d+)", gateway.log.read_text())
    assert found is not None
    return found[1]


async def _pushed(stage: Stage, kind: str, port: str, scale: Scale) -> Any:
    """Push to clients that read, and return what they tell."""
    clients = await stage.python("benchmarks.listeners", kind, port, str(scale.listeners), str(scale.pushed))
    await clients.line()
    await stage.send("paced_events", count=scale.pushed)
    return await clients.line()


async def measure_peer(how: str, session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Have a server of another kind tell as many clients."""
    async with session.folder() as folder:
        command = ("benchmarks.peers.push_server", how, str(scale.pushed))
        server = await folder.start(_PYTHON, "-m", *command)
        port = await server.line()
        clients = await folder.start(_PYTHON, "-m", "benchmarks.listeners", "peer", str(port), str(scale.listeners), str(scale.pushed))
        await clients.line()
        server.go()
        told = await clients.line()
        server.go()
    yield Figure(PUSH_P50, 1e3 * told["p50"])
    yield Figure(PUSH_P99, 1e3 * told["p99"])
