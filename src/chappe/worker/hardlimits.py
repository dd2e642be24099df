"""The end of a worker whose handler ignores its time limit: the capability `kill_after`.

A thread watches, because a handler that hangs may hang the event loop with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from chappe.clocks import steady
from chappe.engines.contract.broker import Dead, Retry
from chappe.output import end_now
from chappe.worker.running_table import KILL_AFTER, RunningTable

log = logging.getLogger("chappe.worker")

_TICK = 0.1
EXIT_CODE = 75


class HardLimits:
    """Ends this process when a message runs longer than it may; the supervisor starts another."""

    def __init__(self, table: RunningTable, end: Callable[[], None] = lambda: end_now(EXIT_CODE)) -> None:
        self._table = table
        self._end = end
        self.watched: dict[int, tuple[float, float, str, Retry | Dead]] = {}  # by tag: until when, for how long, what, and its verdict
        self._thread: threading.Thread | None = None

    def begin(self, beyond: Retry | Dead, seconds: float, what: str) -> None:
        """Watch a message, which `beyond` is to settle when it has run for so many seconds."""
        self.watched[beyond.delivery] = (steady() + seconds, seconds, what, beyond)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="chappe-hard-limits", daemon=True)
            self._thread.start()

    def end(self, tag: int) -> None:
        """Watch it no longer."""
        self.watched.pop(tag, None)

    def _watch(self) -> None:
        while True:
            time.sleep(_TICK)
            now = steady()
            for tag, (until, limit, what, beyond) in list(self.watched.items()):
                if now > until:
                    try:
                        if tag in self.watched:  # it has not just ended
                            after = beyond.after if isinstance(beyond, Retry) else 0.0
                            self._table.blame(tag, KILL_AFTER, limit, is_last=isinstance(beyond, Dead), after=after)
                        log.critical("%s ran longer than its kill_after; this worker ends, the message is retried", what)
                    finally:  # a record factory of the application may raise
                        self._end()
                    return
