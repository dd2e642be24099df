"""What goes on in the background for somebody, until that is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from chappe.errors import BrokerUnavailable

log = logging.getLogger("chappe.rabbitmq")


class Tasks:
    """The tasks of one owner; what goes wrong in them is logged, unless it is that nobody answers."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something from now on."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, BrokerUnavailable):
            log.error("%s failed: %r", self._what, error, exc_info=error)

    async def close(self) -> None:
        """Cancel what goes on, and return when it has ended."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
