"""The threads of a worker that show that its process lives, and end it when a handler keeps its event loop, or ignores its `kill_after`.

Signs of life come from a thread, so that a handler that blocks the loop for a while costs nobody else's messages; the
loop's own progress is watched, so that one which blocks it for ever does. A handler that hangs may hang the event loop with it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from chappe.clocks import steady
from chappe.engines.contract.broker import Dead, Retry
from chappe.output import end_now, stderr
from chappe.worker.running_table import KILL_AFTER, RunningTable

log = logging.getLogger("chappe.worker")

BLOCKED: Final = 30.0  # seconds after which a worker whose loop does not turn is ended
EXIT_CODE: Final = 75
_BEAT: Final = 1.0
_SLOW: Final = 1.0
_TICK: Final = 0.1


class Heartbeat:
    """Beats once a second, and watches the event loop that it was started in."""

    def __init__(
        self,
        beat: Callable[[float], None],
        blame: Callable[[str, float], None] = lambda _, __: None,
        *,
        limit: float = BLOCKED,
        end: Callable[[], None] = lambda: end_now(EXIT_CODE),
    ) -> None:
        """Prepare; `beat` takes the monotonic time, `blame` the name of the task that blocks the loop, and for how many seconds."""
        self._beat = beat
        self._blame = blame
        self._limit = limit
        self._end = end
        self._stopped = threading.Event()
        self._turned = time.monotonic()

    def start(self) -> None:
        """Begin to beat, in the running event loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._turn()
        threading.Thread(target=self._watch, name="chappe-heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()

    def _turn(self) -> None:
        self._turned = time.monotonic()
        if not self._stopped.is_set():
            self._loop.call_later(_BEAT, self._turn)

    def _watch(self) -> None:
        told = False
        looked = time.monotonic()
        while not self._stopped.wait(_BEAT):
            now = time.monotonic()
            if now - looked > 3 * _BEAT:  # the whole process was not running: that is no fault of the loop
                self._turned = now
            looked = now
            self._beat(now)
            blocked = now - self._turned - _BEAT
            if blocked < _SLOW:
                told = False
            elif not told:
                told = True
                try:
                    log.warning("the event loop has not turned for %.1f s; use a def handler for what computes\n%s", blocked, self._stack())
                except Exception:  # of the application's, a record factory perhaps: the heart beats on
                    stderr.write(traceback.format_exc().encode())
            if blocked > self._limit:
                task = asyncio.current_task(self._loop)
                name = task.get_name() if task is not None else ""
                try:
                    self._blame(name, self._limit)
                    log.critical(
                        "the event loop has not turned for %.0f s; this worker ends, its messages are retried\n%s", blocked, self._stack()
                    )
                finally:
                    self._end()
                return

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the documented way to see another thread  # pyright: ignore[reportPrivateUsage]
        return "".join(traceback.format_stack(frame, limit=8)) if frame is not None else ""


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
