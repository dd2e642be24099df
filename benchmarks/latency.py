"""Latency: how soon an idle worker starts what was sent, one message every 10 ms."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from benchmarks.meters import percentile
from benchmarks.scale import Scale
from benchmarks.stage import Session, until
from benchmarks.works import ASEND_P50, ASEND_P99, SEND_P50, SEND_P99, Figure


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Stamp each message before the verb is called, and look at the clock first of all in its handler."""
    for how, p50, p99 in (("paced", SEND_P50, SEND_P99), ("awaited_paced", ASEND_P50, ASEND_P99)):
        async with session.stage() as stage, stage.workers(1, "stamp"):
            await stage.send(how, count=scale.stamped)
            await until(lambda: stage.tally.count() >= scale.stamped, "all messages to be handled")
            took = stage.tally.values()
            yield Figure(p50, 1e3 * percentile(took, 0.5))
            yield Figure(p99, 1e3 * percentile(took, 0.99))
