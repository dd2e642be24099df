"""Lets handlers of any system tell what they did: one memory-mapped file for each worker process, read by the bench.

Imported by the peers' workers too, so it needs only the standard library. A note costs about half a microsecond.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

VARIABLE = "BENCH_TALLY"
_ROOM = 4096
_HEAD = 2

_owner = 0
_cells: memoryview[float] | None = None


def _own() -> memoryview[float]:
    """Return this process's cells: how many notes, how many values, and the values."""
    global _owner, _cells  # noqa: PLW0603 - once for each process, also for one that was forked
    if _cells is None or _owner != os.getpid():
        path = Path(os.environ[VARIABLE]) / f"{os.getpid()}.{time.time_ns()}"
        with path.open("w+b") as file:
            file.truncate(8 * (_HEAD + _ROOM))
            _cells = memoryview(mmap.mmap(file.fileno(), 8 * (_HEAD + _ROOM))).cast("d")
        _owner = os.getpid()
    return _cells


def note(count: int = 1) -> None:
    """Count handled messages."""
    cells = _cells if _cells is not None and _owner == os.getpid() else _own()
    cells[0] += count


def since(sent: float) -> None:
    """Count one handled message and keep the seconds since it was sent; a warm-up says that it was sent at 0."""
    passed = time.time() - sent
    if sent:
        cells = _cells if _cells is not None and _owner == os.getpid() else _own()
        place = int(cells[1])
        if place < _ROOM:
            cells[_HEAD + place] = passed
            cells[1] = place + 1
        cells[0] += 1


class Tally:
    """A folder of tallies as the bench reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def clear(self) -> None:
        """Forget what ended workers noted; workers that run must not be cleared under."""
        for path in self.folder.iterdir():
            path.unlink()

    def count(self) -> int:
        """Return how many messages were noted."""
        return sum(self.counts())

    def counts(self) -> list[int]:
        """Return how many each process noted that noted any."""
        return [count for head in self._heads(8) if (count := int(struct.unpack("d", head)[0]))]

    def values(self) -> list[float]:
        """Return the values that were kept."""
        found: list[float] = []
        for data in self._heads(8 * (_HEAD + _ROOM)):
            cells = memoryview(data).cast("d")
            found += cells[_HEAD : _HEAD + int(cells[1])]
        return found

    def _heads(self, size: int) -> list[bytes]:
        found: list[bytes] = []
        for path in self.folder.iterdir():
            with path.open("rb") as file:
                data = file.read(size)
            if len(data) == size:  # a worker makes its file in two steps
                found.append(data)
        return found
