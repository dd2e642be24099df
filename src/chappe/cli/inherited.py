"""What an application started or opened while it was imported, which processes that are forked afterwards cannot share."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from pathlib import Path
from typing import Any, Final

_DESCRIPTORS: Final = Path("/proc/self/fd")
_HARMLESS: Final = re.compile(r"/dev/(null|zero|full|u?random|tty|pts/\d+|shm/[^/]+)|/memfd:.*")  # some are there to be shared


def opened() -> dict[int, str]:
    """Return the open descriptors, each with what it is of."""
    found: dict[int, str] = {}
    for entry in _DESCRIPTORS.iterdir() if _DESCRIPTORS.is_dir() else ():  # only Linux has it
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # that of the list itself
            continue
    return found


def unshareable(before: dict[int, str]) -> list[str]:
    """Return the names of threads, which a forked process lacks, and of what was opened since, whose state all would change.

    A file that is only appended to, like a log, and a folder have no such state.
    """
    threads = [f"thread {thread.name}" for thread in threading.enumerate() if thread is not threading.main_thread()]
    since = opened().items() - before.items()
    kept = [_named(handle, what) for handle, what in sorted(since) if not _HARMLESS.fullmatch(what) and not _is_stateless(handle)]
    return [name for name in threads if not name.startswith("thread chappe-")] + kept


def _is_stateless(handle: int) -> bool:
    try:
        flags = int(re.findall(r"^flags:\s*(\d+)$", Path(f"/proc/self/fdinfo/{handle}").read_text(), re.MULTILINE)[0], 8)
    except (OSError, IndexError):
        return False
    return bool(flags & (os.O_APPEND | os.O_DIRECTORY | os.O_PATH))


def _named(handle: int, what: str) -> str:
    if not what.startswith("socket:"):
        return what
    with socket.socket(fileno=os.dup(handle)) as found:
        place: Any = found.getsockname()
        with contextlib.suppress(OSError):
            place = found.getpeername() or place
    return f"socket {':'.join(map(str, place[:2])) if found.family in (socket.AF_INET, socket.AF_INET6) else place or 'without a name'}"
