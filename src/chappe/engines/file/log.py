"""Keeps SQLite's write-ahead log longer than what is in it, so that a commit overwrites zeros instead of growing the file.

A sync after growing a file also waits for the file system's own journal: 150-260 µs instead of 95-110 µs on the machine of
docs/decisions/performance.md. Zeros behind the last frame are no frames to SQLite (sqlite.org/fileformat2.html, section 4.4).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

import apsw

from chappe.engines.file.database import LOCK_WAIT, Database
from chappe.engines.file.reserve import free_bytes

CHECKPOINT: Final = 4000  # pages in the log after which it is written back into the database
_STEP: Final = 1024 * 1024
_MARGIN: Final = 128 * 1024
_CHUNK: Final = 64 * 1024


class Log:
    """The `-wal` file beside a database."""

    def __init__(self, database: Path, db: Database) -> None:
        """Count the pages in it; nothing is written before `checkpoint_if_long`."""
        self._path = Path(f"{database}-wal")
        self._db = db
        self._pages = 0
        db.set_wal_hook(self._logged)
        self._frame = int(db.pragma("page_size")) + 24
        self._most = CHECKPOINT * self._frame + _MARGIN
        self._extent = 0

    def grow(self, size: int) -> None:
        """Lengthen the file by so many bytes if there is room and it is not long already: a full disk stores what it can in here."""
        with contextlib.suppress(OSError):
            handle = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if (end := os.fstat(handle).st_size) < self._most:
                    os.pwrite(handle, bytes(size), end)
            finally:
                os.close(handle)

    def size(self) -> int:
        """Return the bytes that the file has."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def _logged(self, _: Any, __: str, pages: int) -> int:
        self._pages = pages
        return 0

    def checkpoint_if_long(self) -> None:
        """Write a long log back into the file, between two turns, and have room in it for the commits that follow.

        Raises `apsw.FullError` and `apsw.BusyError`, after which it may be tried again, and `apsw.IOError`: an error of the disk is not.

        SQLite's own checkpoint in a commit would ignore it, and the next one might believe a disk that had lost the pages.
        """
        if self._pages > CHECKPOINT:
            self.write_back()
        self._reach()

    def write_back(self) -> None:
        """Write the log back into the file, as far as no reader is in the way; raises as `checkpoint_if_long` does."""
        self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._pages = 0

    def give_back(self) -> None:
        """Write the log back into the file and free its bytes; raises as `checkpoint_if_long` does."""
        self._db.set_busy_timeout(0)  # for somebody who reads, nobody else waits
        try:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._db.set_busy_timeout(LOCK_WAIT)
        self._pages = self._extent = 0

    def _reach(self) -> None:
        """Have room for the commits that follow; where the disk is short of it, leave it to SQLite."""
        end = self._pages * self._frame
        if end + _MARGIN <= self._extent or self._extent >= self._most:
            return
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            size = os.fstat(handle).st_size
            wanted = min(self._most, max(end + _MARGIN, 2 * self._extent, _STEP))
            if size < wanted and free_bytes(self._path.parent) > 8 * wanted:
                for at in range(size, wanted, _CHUNK):  # in one large write the page cache would take large pages, dearer to sync
                    os.pwrite(handle, bytes(min(_CHUNK, wanted - at)), at)
            self._extent = max(size, wanted)
        except OSError:
            self._extent = self._most  # no room or a sick disk: SQLite's own calls will tell
        finally:
            os.close(handle)
