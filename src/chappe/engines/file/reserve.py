"""Room on the disk that is kept for settling: given up when the disk is full, so that what runs can still end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

LARGEST: Final = 16 * 1024 * 1024
_PIECE: Final = 64 * 1024


class Reserve:
    """A file of allocated blocks beside the database."""

    def __init__(self, database: Path, largest: int = LARGEST) -> None:
        """Prepare; nothing is allocated before `lay`. `largest` is in bytes."""
        self._path = Path(f"{database}.reserve")
        self._largest = largest
        self._least = largest // 16
        self._needed = 4 * self._least  # bytes free, so that there is room beside it
        self._size = 0
        self.laid = False

    def lay(self) -> bool:
        """Allocate a quarter of what is free, if that is enough; says whether it is there."""
        if self.laid:
            return True
        try:
            if (left := _allocated(self._path)) >= self._least:  # by an engine that was killed
                self._size = left
                self.laid = True
                return True
            free = free_bytes(self._path.parent)
            size = min(self._largest, free // 4)
            if free < self._needed:
                return False
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(handle, 0, size)
            except OSError:
                os.ftruncate(handle, 0)
                return False
            finally:
                os.close(handle)
        except OSError:
            return False
        self._size = size
        self.laid = True
        return True

    def fits_beside(self, more: int) -> bool:
        """Tell whether it can be laid when so many bytes more become free, while nobody takes every byte that does."""
        free = free_bytes(self._path.parent)
        return free >= self._least and free + more >= self._needed

    def give_up(self, write_back: Callable[[], object], take: Callable[[int], None]) -> bool:
        """Free its blocks and say whether there were any.

        Half of them are free when `write_back` writes the log into the file, which makes the log's room new; the others are freed in
        pieces that `take` uses at once. What is neither goes to whoever is first. It is laid again when half as much more is free
        than it was: what it gave up itself is no room for what is new.
        """
        was_laid, self.laid = self.laid, False
        if was_laid:
            self._needed = max(4 * self._least, self._size + self._size // 2)
            with contextlib.suppress(OSError):  # somebody removed it
                os.truncate(self._path, self._size // 2)
                write_back()
                for left in range(self._size // 2 - _PIECE, 0, -_PIECE):
                    os.truncate(self._path, left)
                    take(_PIECE)
                os.truncate(self._path, 0)
        return was_laid

    def remove(self) -> None:
        """Leave nothing behind."""
        self.laid = False
        self._path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user can still store there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _allocated(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
