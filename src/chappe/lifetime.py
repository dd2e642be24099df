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
_ALONE: Final = 10.0  # seconds that a process may take to end in order when its supervisor died
_LAST_GRACE: Final = 3.0
_LOOK = 0.1
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Lifeline:
    """The pipes to and from the supervisor, if there is one: it hears when this process can work and that it lives, and is heard."""

    def __init__(self, grace: float, *, delay: float = 0.0, over: Callable[[], bool] = lambda: True) -> None:
        """Take the pipes over from the environment, so that no child of ours inherits them by name.

        When the supervisor dies, this process is ended in order, and at once when that takes longer than its grace or ten seconds, so that
        nothing is left of it after fifteen; until then it goes on, for up to `delay` seconds, until it is `over` for those that need it.
        """
        self.on_told: Callable[[str], None] = lambda _: None  # what the supervisor says, in a thread of its own
        parent = os.environ.pop(PARENT_VARIABLE, None)
        if parent is not None:
            threading.Thread(target=self._hear, args=(int(parent), grace, delay, over), name="chappe-parent", daemon=True).start()
        handle = os.environ.pop(READY_VARIABLE, None)
        self._handle = None if handle is None else int(handle)
        self._ready = False
        if self._handle is not None:
            os.set_blocking(self._handle, False)
            os.set_inheritable(self._handle, False)

    def _hear(self, handle: int, grace: float, delay: float, over: Callable[[], bool]) -> None:
        with open(handle, "rb") as said:
            for line in said:
                self.on_told(line.decode().strip())
        deadline = time.monotonic() + min(delay, _ALONE + 1.0)
        while time.monotonic() < deadline and not over():
            time.sleep(_LOOK)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(min(grace, _ALONE))
        if callable(signal.getsignal(signal.SIGQUIT)):  # a worker gives back what it runs
            os.kill(os.getpid(), signal.SIGQUIT)
        time.sleep(_LAST_GRACE)
        end_now(70)

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
        """Say that this process can work, and then that it lives for as long as the running event loop turns; once is enough."""
        settle_down()
        if not self._ready:
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
