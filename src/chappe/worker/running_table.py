"""Which messages are running, in memory that outlives this process by a moment; `chappe.engines.file.running_tables` reads it.

The table costs one store for each start and end, and two more each time a handler suspends. When the process is killed, the engine
reads it and blames only what executed at that moment, never what merely waited, for something else or in the same prefetch.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Final

from chappe.forking import in_child

_BEAT: Final = struct.Struct("<d")
_BLAME: Final = struct.Struct("<QIIdd")
_SLOT: Final = struct.Struct("<QII")
_TAG: Final = struct.Struct("<Q")
_FLAG: Final = struct.Struct("<I")
_SLOTS: Final = _BEAT.size + _BLAME.size
KILL_AFTER: Final = 1
BLOCKED: Final = 2


class RunningTable:
    """The last heartbeat, the message that is blamed, and each slot, zero where nothing runs; locked for as long as this process lives."""

    def __init__(self, folder: Path, slots: int) -> None:
        """Make the file, readable by this user only."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{os.getpid()}-{os.urandom(4).hex()}.running"
        size = _SLOTS + slots * _SLOT.size
        unlocked = self.path.with_suffix(".new")  # a table that is not locked yet must not look like a dead worker's
        handle = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, size)
            self._map: mmap.mmap | bytearray = mmap.mmap(handle, size)
        finally:
            os.close(handle)
        self._lock = os.open(unlocked, os.O_RDONLY | os.O_CLOEXEC)  # not of the map, which a forked child keeps
        in_child(self._let_go)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self.path)

    def begin(self, slot: int, tag: int) -> None:
        """Note that a slot has begun a message, which executes now."""
        _SLOT.pack_into(self._map, _SLOTS + slot * _SLOT.size, tag, 1, 0)

    def end(self, slot: int) -> None:
        """Note that a slot runs nothing."""
        _SLOT.pack_into(self._map, _SLOTS + slot * _SLOT.size, 0, 0, 0)

    def step(self, slot: int, executes: bool) -> None:
        """Note whether the event loop executes the message of a slot, or it waits for something."""
        _FLAG.pack_into(self._map, _SLOTS + slot * _SLOT.size + _TAG.size, executes)

    def in_thread(self, slot: int, executes: bool) -> None:
        """Note whether a thread executes the message of a slot."""
        _FLAG.pack_into(self._map, _SLOTS + slot * _SLOT.size + _TAG.size + _FLAG.size, executes)

    def running(self, slot: int) -> int:
        """Return the tag that a slot runs, zero for none."""
        return int(_TAG.unpack_from(self._map, _SLOTS + slot * _SLOT.size)[0])

    def blame(self, tag: int, reason: int, limit: float, *, is_last: bool = False, after: float = 0.0) -> None:
        """Note before this process is ended that it is for this message: `limit` are the seconds that it had.

        `is_last` says that its attempts are spent, else it is tried again `after` seconds.
        """
        _BLAME.pack_into(self._map, _BEAT.size, 0, reason, is_last, limit, after)
        _TAG.pack_into(self._map, _BEAT.size, tag)

    def blame_task(self, name: str, seconds: float) -> None:
        """Note before this process is ended that a task kept its event loop for so long, if it is a slot that runs a message."""
        number = name.removeprefix("slot-")
        if number != name and number.isdigit() and (tag := self.running(int(number))):
            self.blame(tag, BLOCKED, seconds)

    def beat(self, now: float) -> None:
        """Note that this process runs; `now` is of the machine's monotonic clock."""
        _BEAT.pack_into(self._map, 0, now)

    def close(self) -> None:
        """Forget the table: this process ends in order."""
        self.path.unlink(missing_ok=True)
        self._let_go()
        closed, self._map = self._map, bytearray(len(self._map))  # a handler that ignored its end may still end
        if isinstance(closed, mmap.mmap):
            closed.close()

    def _let_go(self) -> None:
        """Close the lock, in a forked child too: it may outlive the worker, and must not seem to be it."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)
