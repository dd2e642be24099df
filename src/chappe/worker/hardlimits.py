"""The end of a worker whose handler ignores its time limit: the capability `kill_after`.

A thread watches, because a handler that hangs may hang the event loop with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from chappe.clocks import steady
from chappe.output import end_now

log = logging.getLogger("chappe.worker")

_TICK = 0.1
EXIT_CODE = 75


class HardLimits:
    """Ends this process when a message runs longer than it may; the supervisor starts another."""

    def __init__(self, blame: Callable[[int], None] = lambda _: None, end: Callable[[], None] = lambda: end_now(EXIT_CODE)) -> None:
        self._blame = blame
        self._end = end
        self._limits: dict[int, tuple[float, str]] = {}
        self._thread: threading.Thread | None = None

    def begin(self, tag: int, seconds: float, what: str) -> None:
        """Watch a message."""
        self._limits[tag] = (steady() + seconds, what)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="chappe-hard-limits", daemon=True)
            self._thread.start()

    def end(self, tag: int) -> None:
        """Watch it no longer."""
        self._limits.pop(tag, None)

    def _watch(self) -> None:
        while True:
            time.sleep(_TICK)
            now = steady()
            for tag, (limit, what) in list(self._limits.items()):
                if now > limit:
                    try:
                        self._blame(tag)
                        log.critical("%s ran longer than its kill_after; this worker ends, the message is retried", what)
                    finally:  # a record factory of the application may raise
                        self._end()
                    return
