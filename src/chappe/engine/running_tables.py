"""Reads the tables in which workers note what they run; they are written by `chappe.worker.running_table`.

A table is a memory-mapped file beside the database: first the worker's last heartbeat on the machine's monotonic clock, then
one tag for each slot. It outlives `kill -9`, and costs the worker nothing but a store. Its worker holds a lock on it.

A worker says the name of its table, never a path, and only a file of this user in the folder of the tables is opened.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from pathlib import Path
from typing import BinaryIO, Final

BEAT: Final = struct.Struct("<d")
TAG: Final = struct.Struct("<Q")
_NAME: Final = re.compile(r"[0-9]{1,10}-[0-9a-f]{1,32}\.running")


def folder_of(database: Path) -> Path:
    """Return the folder of the tables of a database's workers."""
    return Path(f"{database.resolve()}.running")


def table_named(database: Path, name: object) -> Path | None:
    """Return the table that a worker calls its own; None if that is no name of a table."""
    return folder_of(database) / name if isinstance(name, str) and _NAME.fullmatch(name) else None


def started_in(path: Path) -> frozenset[int] | None:
    """Return the tags that the worker of a table was running; None if there is no table to be read."""
    try:
        with _opened(path) as file:
            table = file.read()
    except OSError:
        return None
    return _tags(table)


def started_by(handle: int) -> frozenset[int]:
    """Return the tags that the worker of an open table was running: it can be read after the file was removed. Raises `OSError`."""
    return _tags(os.pread(handle, os.fstat(handle).st_size, 0))


def _tags(table: bytes) -> frozenset[int]:
    tags = table[BEAT.size :]
    return frozenset(tag for (tag,) in TAG.iter_unpack(tags[: len(tags) // TAG.size * TAG.size]) if tag)


def last_beat(path: Path) -> float:
    """Return the monotonic time of the last heartbeat in a table, or 0."""
    try:
        with _opened(path) as table:
            return BEAT.unpack(table.read(BEAT.size))[0]
    except (OSError, struct.error):
        return 0.0


def is_orphan(table: Path) -> bool:
    """Tell whether the worker of a table is dead: it held a lock on it for its life, and process ids come again."""
    try:
        with _opened(table) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def orphans(database: Path) -> list[Path]:
    """Return the tables whose worker is dead."""
    return [table for table in folder_of(database).glob("*.running") if _NAME.fullmatch(table.name) and is_orphan(table)]


def _opened(table: Path) -> BinaryIO:
    """Open a table to read it; raises `OSError` for a link, for what is no file, and for the file of another user."""
    handle = os.open(table, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
        os.close(handle)
        raise PermissionError(f"{table} is no file of this user")
    return os.fdopen(handle, "rb")
