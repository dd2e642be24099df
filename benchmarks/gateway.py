"""HTTP: commands posted over 64 connections at once to one gateway process, each answered when it is durable."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

from benchmarks.scale import Scale
from benchmarks.stage import Program, Session, until
from benchmarks.works import POST, POST_CLIENT, POST_P99, Figure

CONNECTIONS = 64


async def listening(gateway: Program) -> int:
    """Return the port on which a gateway listens, as soon as it does."""
    pattern = r"gateway listens on http://[\d.]+:(\d+)"
    await until(lambda: re.search(pattern, gateway.log.read_text()), "the gateway")
    found = re.search(pattern, gateway.log.read_text())
    assert found is not None
    return int(found[1])


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Post from a process of its own on the same cores; the 2,500 visitors of row W22 are a second of it."""
    async with session.stage() as stage:
        port = await listening(await stage.chappe("gateway", "--port", "0"))
        poster = await stage.python("benchmarks.poster", str(port), str(CONNECTIONS), str(scale.posting))
        told = await poster.line()
        stored = (await stage.depth("noop")).ready
        if told["others"] or stored < told["answers"]:
            raise RuntimeError(f"{told['others']} answers were not 202, and {stored} messages are stored for {told['answers']} answers")
    yield Figure(POST, told["answers"] / told["seconds"])
    yield Figure(POST_P99, 1e3 * told["p99"])
    yield Figure(POST_CLIENT, 100 * told["cpu"] / told["seconds"])
