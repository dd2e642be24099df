"""Waiting for a condition, with a deadline; tests never sleep and hope."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0  # only what hangs takes so long, on any machine


def until(look: Callable[[], T], what: str = "", seconds: float = PATIENCE) -> T:
    """Return what a look finds as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what or look}"
        time.sleep(0.01)
    return found


async def auntil(look: Callable[[], T | Awaitable[T]], what: str = "", seconds: float = PATIENCE) -> T:
    """See `until`; the look may be awaited."""
    deadline = time.monotonic() + seconds
    while True:
        looked = look()
        found: T = await looked if isinstance(looked, Awaitable) else looked  # type: ignore[assignment] # pyright: ignore[reportAssignmentType, reportUnknownVariableType]
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what or look}"
        await asyncio.sleep(0.005)
