"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from chappe.bus.loop import LastingLoop, attempt
from chappe.clocks import steady
from chappe.errors import DefinitionError

R = TypeVar("R")


class _Loop(LastingLoop):
    """An event loop whose timers go on while a test has stopped the clocks of Python."""

    def time(self) -> float:
        return steady()


class Portal:
    """Runs coroutines for synchronous callers of any thread."""

    def __init__(self) -> None:
        self._loop = _Loop()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="chappe-portal", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine and return its result."""
        if threading.get_ident() == self._thread.ident:
            work.close()
            raise DefinitionError("a handler of an inline command called a synchronous verb; await its twin: asend, apublish or aask")
        return self.submit(work).result()

    def submit(self, work: Coroutine[Any, Any, R]) -> Future[R]:
        """Begin to run a coroutine, for a caller that must not block; it is of no attempt that the caller is of."""
        variables = contextvars.copy_context()
        variables.run(attempt.set, None)
        return variables.run(asyncio.run_coroutine_threadsafe, work, self._loop)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Run a last coroutine and end the thread."""
        self.leave(last).result()
        self._thread.join()

    def leave(self, last: Coroutine[Any, Any, None]) -> Future[None]:
        """Do the same as soon as nothing keeps the thread, without waiting for it."""
        ended = self.submit(last)
        ended.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._stop, context=contextvars.Context()))
        return ended

    def _stop(self) -> None:
        self._closing = True
        self._loop.stop()

    def _serve(self) -> None:
        while not self._closing:  # a thread of the application may stop the loop, too
            self._loop.run_forever()
        self._loop.close()
