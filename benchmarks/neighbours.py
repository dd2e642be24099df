"""Neighbours: what a worker that computes in four threads does to everybody else's messages.

Four threads of one Python process take one core. So that what Chappe adds can be told from what is simply a core
that is gone, the same threads run once more in a process that has nothing to do with Chappe.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.drain import drained
from benchmarks.scale import Scale
from benchmarks.sending import rate
from benchmarks.stage import Session, Stage, until
from benchmarks.works import DRAIN_BURNING, DRAIN_STRANGER, SEND_BURNING, SEND_STRANGER, Figure

_THREADS = 4
_LONG = 600


@asynccontextmanager
async def _burning_worker(stage: Stage) -> AsyncGenerator[None]:
    """Keep a worker computing in four threads, and kill it afterwards."""
    worker = await stage.chappe("worker", "-Q", "burn")
    await stage.until_served("burn", 1)
    await stage.send("burns", count=_THREADS, seconds=_LONG)
    await until(lambda: stage.tally.count() == _THREADS, "four handlers to compute")
    try:
        yield
    finally:
        await worker.end(signal.SIGKILL)


@asynccontextmanager
async def _burning_stranger(stage: Stage) -> AsyncGenerator[None]:
    """The same threads in a process of their own."""
    stranger = await stage.python("benchmarks.stranger", str(_THREADS), str(_LONG))
    await stranger.line()
    try:
        yield
    finally:
        await stranger.end(signal.SIGKILL)


async def _both(stage: Stage, scale: Scale) -> tuple[float, float]:
    """Return the rates of draining and of sending."""
    drain = (await drained(stage, 1, scale.drained)).rate
    return drain, rate(scale.sent, await stage.send_by(1, "one_by_one", count=scale.sent))


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Measure alone, beside the worker and beside the stranger, each in a fresh folder, one right after the other."""
    found: list[tuple[float, float]] = []
    for neighbour in (None, _burning_worker, _burning_stranger):
        async with AsyncExitStack() as stack:
            stage = await stack.enter_async_context(session.stage())
            if neighbour is not None:
                await stack.enter_async_context(neighbour(stage))
            found.append(await _both(stage, scale))
    (drain, send), (drain_worker, send_worker), (drain_stranger, send_stranger) = found
    yield Figure(DRAIN_BURNING, drain_worker / drain)
    yield Figure(SEND_BURNING, send_worker / send)
    yield Figure(DRAIN_STRANGER, drain_stranger / drain)
    yield Figure(SEND_STRANGER, send_stranger / send)
