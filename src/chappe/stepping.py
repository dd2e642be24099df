"""What is written for an event loop, where there is none and none is needed."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


def stepped(work: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never suspends, and return its result."""
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it suspended")
