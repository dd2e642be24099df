"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from chappe.errors import DefinitionError

R = TypeVar("R")


class Portal:
    """Runs coroutines for synchronous callers of any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chappe-portal", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine and return its result."""
        if threading.get_ident() == self._thread.ident:
            work.close()
            raise DefinitionError("a handler of an inline command called a synchronous verb; await its twin: asend, apublish or aask")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Run a last coroutine and end the thread."""
        asyncio.run_coroutine_threadsafe(last, self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
