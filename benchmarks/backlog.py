"""Depth: the same work with little and with millions of messages waiting, in turns (R15)."""

from __future__ import annotations

import statistics
from collections.abc import AsyncGenerator

from benchmarks.drain import drained
from benchmarks.meters import percentile
from benchmarks.scale import Scale
from benchmarks.stage import Session, Stage
from benchmarks.works import DRAIN_DEEP, DRAIN_DEPTH, DRAIN_SHALLOW, P99_DEEP, P99_DEPTH, P99_SHALLOW, Figure

_MARGIN = 60_000


async def _fill(stage: Stage, depth: int) -> None:
    """Let two senders bring a queue to a depth."""
    missing = depth - await stage.left("noop")
    if missing > _MARGIN:
        half = missing // 2 - 1
        await stage.send_by(2, "fill", count=half)
        missing = depth - await stage.left("noop")
    if missing > 1:
        await stage.send("fill", count=missing - 1)


async def _sends(stages: tuple[Stage, Stage], scale: Scale) -> tuple[list[float], list[float]]:
    """Send to both in turns, in blocks so short that the machine's noise hits both; gives seconds of each."""
    senders = [await stage.python("benchmarks.sender", "repeatedly", f'{{"count": {scale.block}}}') for stage in stages]
    found: tuple[list[float], list[float]] = ([], [])
    for sender in senders:
        await sender.line()
    for number in range(scale.blocks):
        for which in (0, 1) if number % 2 else (1, 0):
            senders[which].go()
            found[which].extend(await senders[which].line())
    for sender in senders:
        await sender.end()
    return found


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Drain and send in turns; two engines run, and never both at once (on RabbitMQ: two virtual hosts).

    The deep queue is filled once in a session. Each drain begins `drained` messages above its depth and ends there.
    """
    async with session.stage(name="shallow") as shallow, session.stage(name="deep") as deep:
        depths = ((shallow, scale.shallow), (deep, scale.deep_far if session.far else scale.deep))
        rates: tuple[list[float], list[float]] = ([], [])
        took: tuple[list[float], list[float]] = ([], [])
        for number in range(scale.rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                stage, depth = depths[which]
                await _fill(stage, depth)
                rates[which].append((await drained(stage, 1, scale.drained, resting=depth)).rate)
                await _fill(stage, depth)  # a worker ends a little later than it is told
            for all_of_one, some in zip(took, await _sends((shallow, deep), scale), strict=True):
                all_of_one.extend(some)
    yield Figure(DRAIN_SHALLOW, statistics.median(rates[0]))
    yield Figure(DRAIN_DEEP, statistics.median(rates[1]))
    yield Figure(DRAIN_DEPTH, statistics.median(deep / shallow for shallow, deep in zip(*rates, strict=True)))
    p99 = [percentile(all_of_one, 0.99) for all_of_one in took]
    yield Figure(P99_SHALLOW, 1e3 * p99[0])
    yield Figure(P99_DEEP, 1e3 * p99[1])
    yield Figure(P99_DEPTH, p99[1] / p99[0])
