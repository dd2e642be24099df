"""How a program of the bench takes its cue: it says that it is ready, waits for a line, works, and tells when it began and ended.

The peers' programs do so too, so it needs only the standard library.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

EVERY = 0.01


def tell(something: Any) -> None:
    """Return the bench a line."""
    print(json.dumps(something), flush=True)


def wait() -> None:
    """Say that everything is prepared, and wait until the bench says go."""
    tell("ready")
    sys.stdin.readline()


class Watch:
    """The time and the CPU since it was made."""

    def __init__(self) -> None:
        self._cpu, self._started = time.process_time(), time.time()

    def tell(self) -> None:
        """Say when it began and when it ended."""
        tell({"started": self._started, "ended": time.time(), "cpu": time.process_time() - self._cpu})


def paced(count: int, send: Callable[[float], Any]) -> None:
    """Send one every 10 ms, each with the time before it was sent."""
    due = time.perf_counter()
    for _ in range(count):
        due += EVERY
        time.sleep(max(0.0, due - time.perf_counter()))
        send(time.time())


async def awaited_paced(count: int, send: Callable[[float], Awaitable[Any]]) -> None:
    """Do the same in an event loop."""
    due = time.perf_counter()
    for _ in range(count):
        due += EVERY
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await send(time.time())
