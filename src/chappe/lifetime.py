"""What every supervised process does: say that it is ready and that it lives, and end when its supervisor is gone."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chappe.output import end_now

PARENT_VARIABLE: Final = "CHAPPE_PARENT_FD"
READY_VARIABLE: Final = "CHAPPE_READY_FD"
RENEWED: Final = 77  # the exit code of a worker that ends after its messages, age or memory
BEAT: Final = 1.0  # seconds between two signs of life
_LAST_GRACE = 10.0
_LOOK = 0.1
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Lifeline:
    """The pipe to the supervisor, if there is one: it hears when this process can work, and then that it lives."""

    def __init__(self) -> None:
        """Take the pipe over from the environment, so that no child of ours inherits it by name."""
        handle = os.environ.pop(READY_VARIABLE, None)
        self._handle = None if handle is None else int(handle)
        self._ready = False
        if self._handle is not None:
            os.set_blocking(self._handle, False)
            os.set_inheritable(self._handle, False)
        self.on_told: Callable[[str], None] = lambda _: None  # what the supervisor says, in a thread of its own

    def hear(self, what: str) -> None:
        """Take what the supervisor says."""
        self.on_told(what)

    def ready(self, table: Path | None = None) -> None:
        """Say that this process can work, and where a worker notes what it runs."""
        self._ready = True
        self._say(b"%s\n" % (b"" if table is None else os.fsencode(table)))

    def beat(self, told: bytes = b"") -> bool:
        """Say that this process lives, and more if there is more; tell whether that could be said, or need not be."""
        return self._ready and self._say(told + b"\n")

    def _say(self, what: bytes) -> bool:
        if self._handle is not None:
            try:
                os.write(self._handle, what)
            except BlockingIOError:
                return False  # the supervisor is frozen
            except OSError:
                self._handle = None  # it is gone
        return True

    def come_up(self) -> None:
        """Say that this process can work, and then that it lives for as long as the running event loop turns."""
        settle_down()
        self.ready()
        self._beat_from_loop()

    def _beat_from_loop(self) -> None:
        self.beat()
        asyncio.get_running_loop().call_later(BEAT, self._beat_from_loop)


def settle_down() -> None:
    """Return the memory that only the start needed, and keep the collector from looking at what stays.

    The imports leave some 4 MB of free memory behind in the C library's heap (docs/decisions/performance.md).
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def memory_of(pid: int | None) -> int:
    """Return the bytes of memory that a process holds, zero if that cannot be told."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def end_with_parent(
    grace: float, *, delay: float = 0.0, over: Callable[[], bool] = lambda: True, hear: Callable[[str], None] = lambda _: None
) -> None:
    """End this process in order when the supervisor dies, and by force when that takes longer than its grace.

    It goes on for up to `delay` seconds until it is `over` for those that need it. `hear` takes what the supervisor says meanwhile.
    """
    handle = os.environ.pop(PARENT_VARIABLE, None)
    if handle is not None:
        threading.Thread(target=_watch, args=(int(handle), grace, delay, over, hear), name="chappe-parent", daemon=True).start()


def _watch(handle: int, grace: float, delay: float, over: Callable[[], bool], hear: Callable[[str], None]) -> None:
    with open(handle, "rb") as said:
        for line in said:
            hear(line.decode().strip())
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline and not over():
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace + _LAST_GRACE)
    end_now(70)
