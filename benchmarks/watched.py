"""What it costs a drain that somebody looks at the dashboard: pages that are open hear every change of the queues."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncGenerator

from benchmarks.drain import drained
from benchmarks.gateway import listening
from benchmarks.scale import Scale
from benchmarks.stage import Session
from benchmarks.works import DRAIN_WATCHED, Figure

_PAGES = 3
_REQUEST = b"GET /api/changes HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"


@contextlib.asynccontextmanager
async def _watched(port: int, heard: list[int]) -> AsyncGenerator[None]:
    """Have pages hear of all changes, and count the bytes."""

    async def page() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_REQUEST)
        while data := await reader.read(1 << 16):
            heard[0] += len(data)

    async with asyncio.TaskGroup() as pages:
        tasks = [pages.create_task(page()) for _ in range(_PAGES)]
        yield
        for task in tasks:
            task.cancel()


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Drain with and without pages, in turns, beside the same gateway."""
    ratios: list[float] = []
    async with session.stage() as stage:
        port = await listening(await stage.chappe("gateway", "--port", "0"))
        for _ in range(scale.rounds):
            free, heard = (await drained(stage, 1, scale.drained)).rate, [0]
            async with _watched(port, heard):
                ratios.append((await drained(stage, 1, scale.drained)).rate / free)
            if heard[0] < 2 * _PAGES * len(_REQUEST):
                raise RuntimeError(f"the pages heard {heard[0]} bytes only")
    yield Figure(DRAIN_WATCHED, statistics.median(ratios))
