"""Reads the tables in which workers note what they run; they are written by `noria.worker.slots`.

A table is a memory-mapped file beside the database: first the worker's last heartbeat on the machine's monotonic clock, then
one tag for each slot. It outlives `kill -9`, and costs the worker nothing but a store.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

BEAT: Final = struct.Struct("<d")
TAG: Final = struct.Struct("<Q")


def folder_of(database: Path) -> Path:
    """Give the folder of the tables of a database's workers."""
    return Path(f"{database.resolve()}.slots")


def started_in(path: Path) -> frozenset[int] | None:
    """Give the tags that the worker of a table was running; None if there is no table to be read."""
    try:
        table = path.read_bytes()
    except OSError:
        return None
    tags = table[BEAT.size :]
    return frozenset(tag for (tag,) in TAG.iter_unpack(tags[: len(tags) // TAG.size * TAG.size]) if tag)


def last_beat(path: Path) -> float:
    """Give the monotonic time of the last heartbeat in a table, or 0."""
    try:
        with path.open("rb") as table:
            return BEAT.unpack(table.read(BEAT.size))[0]
    except (OSError, struct.error):
        return 0.0


def orphans(database: Path) -> list[Path]:
    """Give the tables whose worker is dead."""
    found: list[Path] = []
    for table in folder_of(database).glob("*.slots"):
        pid = table.name.partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            found.append(table)
    return found
