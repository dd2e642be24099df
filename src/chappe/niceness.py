"""How a process leaves the processor to others, also where Linux shares it among sessions first (sched(7), *autogroup*)."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Final

_AUTOGROUP: Final = Path("/proc/self/autogroup")
_RATE_LIMIT_PAUSE: Final = 0.1  # Linux takes one such change in this time, of all who are not root


def be_nice(nice: int) -> None:
    """Have this process be so much nicer to the others of its session, and a session that it leads be as nice to other sessions."""
    os.nice(nice)
    if os.getsid(0) == os.getpid():
        share_of_session(nice)


def share_of_session(nice: int) -> None:
    """Have the session of this process be so nice to others, as soon as Linux takes it."""
    if _AUTOGROUP.exists():
        threading.Thread(target=_write, args=(nice,), name="niceness", daemon=True).start()


def _write(nice: int) -> None:
    with contextlib.suppress(OSError):
        while f"nice {nice}\n" not in _AUTOGROUP.read_text():
            with contextlib.suppress(BlockingIOError):
                _AUTOGROUP.write_text(str(nice))
                return
            time.sleep(_RATE_LIMIT_PAUSE)
