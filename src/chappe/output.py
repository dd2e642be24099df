"""What leaves without keeping anybody waiting: text for stderr, whether somebody reads it or not.

A pipe that nobody reads and a terminal that is held by Ctrl-S block whoever writes to them. Here that is a thread that does nothing
else: the others put their lines into a queue with a bound, and what does not fit is counted.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

MOST_WAITING: Final = 1024 * 1024  # bytes
LAST_WAIT: Final = 1.0  # seconds that a process which ends waits for its last lines


T = TypeVar("T")


class Outlet(Generic[T]):
    """Items on their way to what may block, by a thread of its own."""

    def __init__(self, hand_over: Callable[[T], bool], says_dropped: Callable[[int], T], most: int) -> None:
        """Prepare; `hand_over` may take its time and tells whether it could, `most` bounds the sizes of all that waits."""
        self.says_dropped = says_dropped
        self._hand_over = hand_over
        self._most = most
        self._lock = threading.RLock()  # a signal handler may write while the same thread does
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Start with nothing: a forked process has no thread, and its parent writes what waited."""
        self._lock = threading.RLock()
        self._queue: SimpleQueue[tuple[T, int, int] | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._put = self._taken = 0  # sizes; each is counted by one side only
        self._dropped = self._failed = self._told = 0  # lines

    def put(self, item: T, size: int = 1, lines: int = 1) -> None:
        """Have an item handed over soon; never waits, and counts its lines as dropped if too much waits already."""
        with self._lock:
            if self._put - self._taken + size > self._most or not self._is_running():
                self._dropped += lines
                return
            self._put += size
            self._queue.put((item, size, lines))

    def flush(self, seconds: float = LAST_WAIT) -> bool:
        """Wait until all is written that was there before, but no longer than some seconds; tell whether it is."""
        with self._lock:
            if self._thread is None:
                return True
            reached = threading.Event()
            self._queue.put(reached)
        return reached.wait(seconds)

    def _is_running(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._hand_over_all, args=(self._queue,), name="chappe-output", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter ends, or there is no room for a thread
                return False
            self._thread = thread
        return True

    def _hand_over_all(self, queue: SimpleQueue[tuple[T, int, int] | threading.Event]) -> None:
        while True:
            entry = queue.get()
            if isinstance(entry, threading.Event):
                entry.set()
                continue
            item, size, lines = entry
            if not self._hand_over(item):
                self._failed += lines
            self._taken += size
            missing = self._dropped + self._failed - self._told
            if missing and self._put - self._taken <= self._most // 2 and self._hand_over(self.says_dropped(missing)):
                self._told += missing


class Output(Outlet[bytes]):
    """Lines on their way to a file descriptor."""

    def __init__(self, handle: int, most: int = MOST_WAITING) -> None:
        self._handle = handle
        super().__init__(self._write_out, _dropped, most)

    def write(self, line: bytes) -> None:
        """Have whole lines written soon."""
        self.put(line, len(line), line.count(b"\n"))

    def _write_out(self, text: bytes) -> bool:
        """Write for as long as it takes; tell whether it could be."""
        while text:
            try:
                text = text[os.write(self._handle, text) :]
            except BlockingIOError:  # somebody who shares stderr with us does not want to wait either
                waiting = select.poll()
                waiting.register(self._handle, select.POLLOUT)
                waiting.poll()
            except OSError:
                return False
        return True


def _dropped(count: int) -> bytes:
    return b"%d log line%s dropped: nobody read stderr\n" % (count, b"" if count == 1 else b"s")


stderr: Final = Output(2)
outlets: Final[list[Outlet[Any]]] = [stderr]  # those of this process whose last items are waited for

last_reports: Final[list[Callable[[], object]]] = []  # what integrations do before this process ends


def flush_all() -> None:
    """Wait a little for all that is on its way."""
    for outlet in outlets:
        outlet.flush()


def end_now(code: int) -> None:
    """End this process without anything that Python does at the end, but for what is on its way."""
    if last_reports:
        reporting = threading.Thread(target=_report_all, daemon=True)
        with contextlib.suppress(RuntimeError):  # there is no room for a thread
            reporting.start()
            reporting.join(LAST_WAIT)
    flush_all()
    os._exit(code)


def _report_all() -> None:
    for report in last_reports:
        with contextlib.suppress(Exception):  # of a library that reports to others: nothing is to keep a process from its end
            report()
