"""Triggers: 61 handlers that each wait 0.8 s for somebody else (T3), and many of 5 ms that are sent one by one (T16)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from benchmarks.scale import Scale
from benchmarks.stage import Session, until
from benchmarks.works import AT_ONCE, BLOCKS, ONE_BY_ONE, PAUSES, Figure

_POOL = 5  # handlers at once, as many as the pool of that story had processes


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Send all at once to one worker process, once to handlers that await and once to handlers that block a thread."""
    for work, how, queue in ((PAUSES, "pauses", "pause"), (BLOCKS, "blocks", "block")):
        async with session.stage() as stage, stage.workers(1, queue, slots=scale.handlers):
            await stage.send(how, count=scale.handlers, milliseconds=round(1e3 * scale.pause))
            await until(lambda: stage.tally.count() == scale.handlers, "all handlers to end")
            yield Figure(work, max(stage.tally.values()))
    for work, how in ((AT_ONCE, "blocks"), (ONE_BY_ONE, "blocks_one_by_one")):
        async with session.stage() as stage, stage.workers(1, "block", slots=_POOL):
            await stage.send(how, count=scale.handlers_short, milliseconds=5)
            await until(lambda: stage.tally.count() == scale.handlers_short, "all handlers to end")
            yield Figure(work, scale.handlers_short / max(stage.tally.values()))
