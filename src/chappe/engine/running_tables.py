"""Reads the tables in which workers note what they run; they are written by `chappe.worker.running_table`.

A table is a memory-mapped file beside the database: first the worker's last heartbeat on the machine's monotonic clock, then
one tag for each slot. It outlives `kill -9`, and costs the worker nothing but a store. Its worker holds a lock on it.
"""

from __future__ import annotations

import fcntl
import struct
from pathlib import Path
from typing import Final

BEAT: Final = struct.Struct("<d")
TAG: Final = struct.Struct("<Q")


def folder_of(database: Path) -> Path:
    """Return the folder of the tables of a database's workers."""
    return Path(f"{database.resolve()}.running")


def started_in(path: Path) -> frozenset[int] | None:
    """Return the tags that the worker of a table was running; None if there is no table to be read."""
    try:
        table = path.read_bytes()
    except OSError:
        return None
    tags = table[BEAT.size :]
    return frozenset(tag for (tag,) in TAG.iter_unpack(tags[: len(tags) // TAG.size * TAG.size]) if tag)


def last_beat(path: Path) -> float:
    """Return the monotonic time of the last heartbeat in a table, or 0."""
    try:
        with path.open("rb") as table:
            return BEAT.unpack(table.read(BEAT.size))[0]
    except (OSError, struct.error):
        return 0.0


def is_orphan(table: Path) -> bool:
    """Tell whether the worker of a table is dead: it held a lock on it for its life, and process ids come again."""
    try:
        with table.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def orphans(database: Path) -> list[Path]:
    """Return the tables whose worker is dead."""
    return [table for table in folder_of(database).glob("*.running") if is_orphan(table)]
