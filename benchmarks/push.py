"""Push (row D13): from an event's archiving, or a peer's send, until the last of many clients of one gateway has it, ten a second."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator

from benchmarks.scale import Scale
from benchmarks.stage import Session, until
from benchmarks.works import PUSH_P50, PUSH_P99, PUSH_SSE_P50, PUSH_SSE_P99, Figure

_PYTHON = sys.executable


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Publish from a process of its own to clients of a gateway over WebSockets, then over server-sent events."""
    for kind, median, tail in (("websocket", PUSH_P50, PUSH_P99), ("sse", PUSH_SSE_P50, PUSH_SSE_P99)):
        async with session.stage() as stage:
            gateway = await stage.chappe("gateway", "--port", "0")
            await until(lambda gateway=gateway: "gateway listens on" in gateway.log.read_text(), "the gateway")
            found = re.search(r"gateway listens on http://[\d.]+:(\d+)", gateway.log.read_text())
            assert found is not None
            clients = await stage.python("benchmarks.listeners", kind, found[1], str(scale.listeners), str(scale.pushed))
            await clients.line()
            await stage.send("paced_events", count=scale.pushed)
            told = await clients.line()
        yield Figure(median, 1e3 * told["p50"])
        yield Figure(tail, 1e3 * told["p99"])


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
