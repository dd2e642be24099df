"""Triggers: 61 handlers that each wait 0.8 s for somebody else (T3), from the send to the end of the last."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from benchmarks.scale import Scale
from benchmarks.stage import Session, until
from benchmarks.works import BLOCKS, PAUSES, Figure


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Send all at once to one worker process, once to handlers that await and once to handlers that block a thread."""
    for work, how, queue in ((PAUSES, "pauses", "pause"), (BLOCKS, "blocks", "block")):
        async with session.stage() as stage, stage.workers(1, queue):
            await stage.send(how, count=scale.handlers, milliseconds=round(1e3 * scale.pause))
            await until(lambda: stage.tally.count() == scale.handlers, "all handlers to end")
            yield Figure(work, max(stage.tally.values()))
