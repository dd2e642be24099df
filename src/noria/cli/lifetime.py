"""What every supervised process does: say that it is ready, and end when its supervisor is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from noria.supervisor.child import PARENT_VARIABLE, READY_VARIABLE

_LAST_GRACE = 10.0
_LOOK = 0.1


def say_ready() -> None:
    """Tell the supervisor, if there is one, that this process can work."""
    handle = os.environ.pop(READY_VARIABLE, None)
    if handle is not None:
        os.write(int(handle), b"ready\n")
        os.close(int(handle))


def end_with_parent(grace: float, *, delay: float = 0.0, over: Callable[[], bool] = lambda: True) -> None:
    """End this process in order when the supervisor dies, and by force when that takes longer than its grace.

    It goes on for up to `delay` seconds until it is `over` for those that need it.
    """
    handle = os.environ.pop(PARENT_VARIABLE, None)
    if handle is not None:
        threading.Thread(target=_watch, args=(int(handle), grace, delay, over), name="noria-parent", daemon=True).start()


def _watch(handle: int, grace: float, delay: float, over: Callable[[], bool]) -> None:
    while os.read(handle, 1):
        pass
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline and not over():
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace + _LAST_GRACE)
    os._exit(70)
