"""Which messages are running, in memory that outlives this process by a moment; `noria.engine.tables` reads it.

The table costs one store for each start and end. When the process is killed, the engine reads it and blames
only messages that had started, never those that merely waited in the same prefetch.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

_BEAT: Final = struct.Struct("<d")
_TAG: Final = struct.Struct("<Q")


class StartedTable:
    """The last heartbeat, then one tag for each slot, zero where nothing runs."""

    def __init__(self, folder: Path, slots: int) -> None:
        """Make the file, readable by this user only."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{os.getpid()}-{os.urandom(4).hex()}.slots"
        size = _BEAT.size + slots * _TAG.size
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, size)
            self._map: mmap.mmap | bytearray = mmap.mmap(handle, size)
        finally:
            os.close(handle)

    def start(self, slot: int, tag: int) -> None:
        """Note that a slot runs a message; zero for none."""
        _TAG.pack_into(self._map, _BEAT.size + slot * _TAG.size, tag)

    def running(self, slot: int) -> int:
        """Give the tag that a slot runs, zero for none."""
        return int(_TAG.unpack_from(self._map, _BEAT.size + slot * _TAG.size)[0])

    def beat(self, now: float) -> None:
        """Note that this process runs; `now` is of the machine's monotonic clock."""
        _BEAT.pack_into(self._map, 0, now)

    def close(self) -> None:
        """Forget the table: this process ends in order."""
        self.path.unlink(missing_ok=True)
        closed, self._map = self._map, bytearray(len(self._map))  # a handler that ignored its end may still end
        if isinstance(closed, mmap.mmap):
            closed.close()
