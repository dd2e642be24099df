"""Reads the tables in which workers note what they run; they are written by `chappe.worker.running_table`.

A table is a memory-mapped file beside the database: first the worker's last heartbeat on the machine's monotonic clock and the one
message that it ended itself for, then for each slot what it has begun, and whether the code of its handler executes at this moment, in
the event loop or in a thread. It outlives `kill -9`, and costs the worker nothing but a store. Its worker holds a lock on it.

A worker says the name of its table, never a path, and only a file of this user in the folder of the tables is opened.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from chappe.engines.contract.broker import Death

# The heartbeat; then the message that is blamed, why, if its attempts are spent, the seconds it had, and when it is tried again.
HEADER: Final = struct.Struct("<dQIIdd")
SLOT: Final = struct.Struct("<QII")  # what it has begun; whether that executes in the event loop, and in a thread
KILL_AFTER: Final = 1
BLOCKED: Final = 2
_NAME: Final = re.compile(r"[0-9]{1,10}-[0-9a-f]{1,32}\.running")


def folder_of(database: Path) -> Path:
    """Return the folder of the tables of a database's workers."""
    return Path(f"{database.resolve()}.running")


def table_named(database: Path, name: object) -> Path | None:
    """Return the table that a worker calls its own; None if that is no name of a table."""
    return folder_of(database) / name if isinstance(name, str) and _NAME.fullmatch(name) else None


class Account(NamedTuple):
    """What a table says: which messages had begun, and the death of its worker if it is dead."""

    begun: frozenset[int]
    death: Death


NOBODY: Final = Account(frozenset(), Death("", ()))


def account_of(table: bytes, worker: str = "") -> Account:
    """Return what the bytes of a table say. Pure.

    Only what the worker blames can have killed it; else what executed at that moment, or where nothing did, all that had begun.
    """
    if len(table) < HEADER.size:
        return NOBODY
    slots = table[HEADER.size :]
    rows = [row for row in SLOT.iter_unpack(slots[: len(slots) // SLOT.size * SLOT.size]) if row[0]]
    begun = frozenset(int(tag) for tag, _, _ in rows)
    _, blamed, reason, is_last, limit, after = HEADER.unpack_from(table)
    if blamed not in begun:
        executing = frozenset(int(tag) for tag, in_loop, in_thread in rows if in_loop or in_thread)
        return Account(begun, Death(worker, tuple(sorted(executing or begun)), is_sure=bool(executing) or not begun))
    if reason == KILL_AFTER:
        error = f"its worker was ended: it ran longer than its kill_after of {limit:g} s"
        return Account(begun, Death(worker, (blamed,), error, after=after, is_last=bool(is_last)))
    return Account(begun, Death(worker, (blamed,), f"its worker was ended: it kept the event loop for {limit:g} s"))


def read_table(path: Path) -> Account | None:
    """Return what a table says; None if there is no table to be read."""
    try:
        with _opened(path) as file:
            return account_of(file.read(), path.name)
    except OSError:
        return None


def started_by(handle: int) -> frozenset[int]:
    """Return the tags that the worker of an open table was running: it can be read after the file was removed. Raises `OSError`."""
    return account_of(os.pread(handle, os.fstat(handle).st_size, 0)).begun


def last_beat(path: Path) -> float:
    """Return the monotonic time of the last heartbeat in a table, or 0."""
    try:
        with _opened(path) as table:
            return float(HEADER.unpack(table.read(HEADER.size))[0])
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
