"""Reads SQLite's write-ahead log without SQLite: which frames are whole, and whether commits are lost that had been durable.

SQLite reads the log up to the first frame whose checksum is wrong and forgets the rest (sqlite.org/fileformat2.html, section 4): right
for a commit that a power failure tore, which nobody was told of, but a flipped bit takes every later commit with it in silence. Two
things tell them apart: a commit is begun only when the one before it is on the disk, and the `-shm` file, which outlives a killed
process, counts a frame only when it is on the disk (sqlite.org/walformat.html, section 2).
"""

from __future__ import annotations

import array
import contextlib
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from chappe.engines.file.boot import is_of_this_boot

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
_INDEX: Final = struct.Struct("=3I2BH6I")  # of this machine, but for the salts, which are as in the log
_INDEX_SIZE: Final = 48
_INDEX_VERSION: Final = 3007000
_MAGIC: Final = 0x377F0682  # the lowest bit says that checksums are of big-endian words
_PAGE_SIZES: Final = frozenset(1 << n for n in range(9, 17))


class Frame(NamedTuple):
    """One page as a commit left it; `size` is the size of the database in pages where the frame ends a commit, else 0."""

    page: int
    size: int
    offset: int


class Index(NamedTuple):
    """What the `-shm` file says: so many frames were durable, and so many of them are in the database already."""

    salts: bytes
    durable: int
    written_back: int


class WriteAhead(NamedTuple):
    """What a log holds: `frames` are those to apply to the database, in order.

    So many durable frames, or its header, are damaged, and so many are not there at all.
    """

    page_size: int
    frames: tuple[Frame, ...] = ()
    damaged: int = 0
    missing: int = 0

    @property
    def hurt(self) -> str | None:
        """Say what is wrong with the log, or nothing."""
        said = [f"{self.damaged} frames of the log are damaged"] if self.damaged else []
        said += [f"{self.missing} frames of the log are missing"] if self.missing else []
        return " and ".join(said) or None


def read(database: Path, page_size: int | None, index: Index | None) -> WriteAhead:
    """Read the log of a database. `page_size` is the database's, for a log whose own header is damaged; `index` is its `index_of`."""
    try:
        with Path(f"{database}-wal").open("rb") as file:
            whole_header, log = _read(file.fileno(), page_size, index)
            if not whole_header and index is None and _is_written_back(file.fileno(), database, log):
                return WriteAhead(log.page_size)  # a new log was begun over this one when the power failed
            return log
    except FileNotFoundError:
        return _without_frames(page_size, index)


def _is_written_back(handle: int, database: Path, log: WriteAhead) -> bool:
    """Tell whether every page of a log is in the database as the log has it last."""
    latest = {frame.page: frame for frame in log.frames}
    try:
        with database.open("rb") as file:
            for number, frame in latest.items():
                file.seek((number - 1) * log.page_size)
                if file.read(log.page_size) != os.pread(handle, log.page_size, frame.offset):
                    return False
    except OSError:
        return False
    return True


def index_of(database: Path) -> Index | None:
    """Read the `-shm` file, if there is one that can be believed. It must be read before SQLite opens the file and writes it anew.

    It is never synced: after a loss of power it may be of any time before, and is not believed.
    """
    path = Path(f"{database}-shm")
    try:
        if not is_of_this_boot(path):
            return None
        with path.open("rb") as file:
            data = file.read(2 * _INDEX_SIZE + 4)
    except OSError:
        return None
    header = data[:_INDEX_SIZE]
    if len(data) < 2 * _INDEX_SIZE + 4 or header != data[_INDEX_SIZE : 2 * _INDEX_SIZE]:
        return None
    version, _, _, ready, _, _, durable, *_ = _INDEX.unpack_from(header)
    sums = struct.unpack_from("=2I", header, 40)
    if version != _INDEX_VERSION or not ready or checksum(header[:40], big=sys.byteorder == "big") != sums:
        return None
    (written_back,) = struct.unpack_from("=I", data, 2 * _INDEX_SIZE)
    return Index(header[32:40], durable, min(written_back, durable))


def _without_frames(page_size: int | None, index: Index | None) -> WriteAhead:
    return WriteAhead(page_size or 0, missing=index.durable - index.written_back if index else 0)


def _read(handle: int, known_size: int | None, index: Index | None) -> tuple[bool, WriteAhead]:
    """Return whether the header of a log is whole, and what it holds."""
    header = os.pread(handle, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return True, _without_frames(known_size, index)
    magic, _, page_size, _, _, _, first, second = _HEADER.unpack(header)
    big = bool(magic & 1)
    whole_header = magic | 1 == _MAGIC | 1 and checksum(header[:24], big=big) == (first, second)
    if not whole_header:
        page_size, big = known_size or page_size, sys.byteorder == "big"
    if page_size not in _PAGE_SIZES:
        return True, _without_frames(known_size, index)
    all_salts = _salts(handle, page_size)
    own = header[16:24] if whole_header else _latest(all_salts)
    last = max((number for number, salts in enumerate(all_salts, 1) if salts == own), default=0)
    found: list[tuple[Frame, bool]] = []
    sums = (first, second)
    for number in range(1, last + 1):
        offset = _HEADER.size + (number - 1) * (_FRAME.size + page_size)
        data = os.pread(handle, _FRAME.size + page_size, offset)
        page, size, _, _, first, second = _FRAME.unpack_from(data)
        whole = data[8:16] == own and page > 0 and checksum(data[:8] + data[_FRAME.size :], sums, big=big) == (first, second)
        found.append((Frame(page, size, offset + _FRAME.size), whole))
        sums = (first, second)  # as stored: the frame behind a damaged page can still be told to be whole
    if index is not None and index.salts != own:
        index = None  # it is of another log
    return whole_header, _judged(page_size, found, index, whole_header=whole_header)


def _judged(page_size: int, found: list[tuple[Frame, bool]], index: Index | None, *, whole_header: bool) -> WriteAhead:
    """Tell a torn end from damage."""
    durable, written_back = (index.durable, index.written_back) if index else (0, 0)
    good = next((n for n, (_, whole) in enumerate(found) if not whole), len(found)) if whole_header else 0
    commits = [n for n, (frame, whole) in enumerate(found) if whole and frame.size]
    hurt = good < durable or sum(n >= good for n in commits) > 1
    end = max((n + 1 for n in commits if hurt or n < good), default=0)
    frames = tuple(frame for frame, whole in found[written_back:end] if whole)
    if not hurt:
        return WriteAhead(page_size, frames)
    damaged = sum(not whole for _, whole in found[: max(end, durable)]) + (not whole_header)
    return WriteAhead(page_size, frames, damaged, max(0, durable - max(len(found), written_back)))


def hides_commits(database: Path, taken: int, page_size: int | None, index: Index | None) -> WriteAhead | None:
    """Return the log if SQLite, which took so many frames of it, stopped at a damaged one; it costs next to nothing when it did not."""
    salts: list[bytes] = []
    with contextlib.suppress(FileNotFoundError), Path(f"{database}-wal").open("rb") as file:
        salts = _salts(file.fileno(), page_size or 4096)
    own = salts[taken - 1] if 0 < taken <= len(salts) else next((found for found in salts if any(found)), b"")
    if own not in salts[taken:] and not (index and index.durable > max(taken, index.written_back)):
        return None
    log = read(database, page_size, index)
    return log if log.hurt else None


def _salts(handle: int, page_size: int) -> list[bytes]:
    """Return the salts of every frame there is room for: those of the header's own are of this log, others of one before."""
    step = _FRAME.size + page_size
    frames = max(0, os.fstat(handle).st_size - _HEADER.size) // step
    return [os.pread(handle, 8, _HEADER.size + number * step + 8) for number in range(frames)]


def _latest(all_salts: Sequence[bytes]) -> bytes:
    """Return the salts of the log that was begun last: the first of the two counts them, and goes round (section 4.1)."""
    found = [salts for salts in all_salts if any(salts)]
    count = [int.from_bytes(salts[:4], "big") for salts in found]
    ahead = [(number - count[0] + 2**31) % 2**32 for number in count]
    return found[ahead.index(max(ahead))] if found else b""


def checksum(data: bytes, sums: tuple[int, int] = (0, 0), *, big: bool) -> tuple[int, int]:
    """Return SQLite's checksum of a header or frame, going on from that of the frame before (section 4.2)."""
    words = array.array("I", data)
    if big != (sys.byteorder == "big"):
        words.byteswap()
    first, second = sums
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second


def page_size_of(header: bytes) -> int | None:
    """Return the page size that a file's header names, if it is one."""
    size = int.from_bytes(header[16:18], "big")
    size = 65536 if size == 1 else size
    return size if header[:16] == b"SQLite format 3\0" and size in _PAGE_SIZES else None
