"""Sending: what a program can make durable in a second while nobody handles it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from benchmarks.scale import Scale
from benchmarks.stage import Session
from benchmarks.works import ASEND, EIGHT_PROCESSES, EIGHT_TASKS, EIGHT_THREADS, SEND, SEND_HUNDREDS, Figure


def rate(count: int, senders: list[Any]) -> float:
    """Return messages a second, from the first sender's start to the last one's end."""
    return count / (max(sender["ended"] for sender in senders) - min(sender["started"] for sender in senders))


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Send in every way; the engine serves nothing else meanwhile."""
    async with session.stage() as stage:
        for work, how, senders, count in (
            (SEND, "one_by_one", 1, scale.sent),
            (ASEND, "awaited_one_by_one", 1, scale.sent),
            (EIGHT_TASKS, "tasks", 1, 2 * scale.sent),
            (EIGHT_THREADS, "threads", 1, 2 * scale.sent),
            (EIGHT_PROCESSES, "one_by_one", scale.senders, 2 * scale.sent),
            (SEND_HUNDREDS, "hundreds", 1, scale.sent_by_hundreds),
        ):
            yield Figure(work, rate(count, await stage.send_by(senders, how, count=count // senders)))
