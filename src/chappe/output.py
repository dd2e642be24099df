"""Text for stderr that never keeps its writer waiting, whether somebody reads stderr or not.

A pipe that nobody reads and a terminal that is held by Ctrl-S block whoever writes to them. Here that is a thread that does nothing
else: the others put their lines into a queue with a bound, and what does not fit is counted.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

MOST_WAITING: Final = 1024 * 1024  # bytes
LAST_WAIT: Final = 1.0  # seconds that a process which ends waits for its last lines


class Output:
    """Lines on their way to a file descriptor."""

    def __init__(self, handle: int, most: int = MOST_WAITING) -> None:
        self.says_dropped: Callable[[int], bytes] = lambda count: (
            b"%d log line%s dropped: nobody read stderr\n" % (count, b"" if count == 1 else b"s")
        )
        self._handle = handle
        self._most = most
        self._lock = threading.RLock()  # a signal handler may write while the same thread does
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Start with nothing: a forked process has no thread, and its parent writes what waited."""
        self._lock = threading.RLock()
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._put = self._taken = 0  # bytes; each is counted by one side only
        self._dropped = self._failed = self._told = 0  # lines

    def write(self, line: bytes) -> None:
        """Have whole lines written soon; never waits, and counts them as dropped if too much waits already."""
        with self._lock:
            if self._put - self._taken + len(line) > self._most or not self._is_running():
                self._dropped += line.count(b"\n")
                return
            self._put += len(line)
            self._queue.put(line)

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
            thread = threading.Thread(target=self._write_all, args=(self._queue,), name="chappe-output", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter ends, or there is no room for a thread
                return False
            self._thread = thread
        return True

    def _write_all(self, queue: SimpleQueue[bytes | threading.Event]) -> None:
        while True:
            item = queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            if not self._write_out(item):
                self._failed += item.count(b"\n")
            self._taken += len(item)
            missing = self._dropped + self._failed - self._told
            if missing and self._put - self._taken <= self._most // 2 and self._write_out(self.says_dropped(missing)):
                self._told += missing

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


stderr: Final = Output(2)


def end_now(code: int) -> None:
    """End this process without anything that Python does at the end, but for the last lines to stderr."""
    stderr.flush()
    os._exit(code)
