"""A disk as a power cut leaves it: what was synced is there; what was not is there, or not, or in part, in any order."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Final, NamedTuple

SECTOR: Final = 512
FOLDER: Final = 0  # the number that stands for a folder where others have a file's


class Write(NamedTuple):
    """Bytes written to a file, by its number: a path may lead to another file later."""

    file: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file cut, or grown with zeros."""

    file: int
    size: int


class Grow(NamedTuple):
    """A file made longer with zeros by somebody who is not SQLite, to write into later."""

    file: int
    size: int


class Link(NamedTuple):
    """A new entry in a folder: a file, or a folder."""

    path: str
    file: int


class Unlink(NamedTuple):
    """An entry taken out of a folder."""

    path: str


class Sync(NamedTuple):
    """All that was written to a file before is durable; whether its name is, is another matter."""

    file: int


class SyncFolder(NamedTuple):
    """All entries made and taken out of a folder before are durable."""

    path: str


Change = Write | Truncate | Grow | Link | Unlink
Operation = Change | Sync | SyncFolder
Image = dict[str, bytes | bytearray]


def folder_of(path: str) -> str:
    """Return the folder of a path, where "" is the one that was always there."""
    return posixpath.dirname(path)


def place_of(change: Change) -> int | str:
    """Return what must be synced to make a change durable: the number of a file, or the path of a folder."""
    return folder_of(change.path) if isinstance(change, Link | Unlink) else change.file


class Disk:
    """What is durable, and what is only pending, after some operations."""

    def __init__(self, image: Mapping[str, bytes | bytearray] | None = None) -> None:
        self.pending: list[Change] = []
        self._contents = {number: bytearray(data) for number, data in enumerate((image or {}).values(), start=1)}
        self._solid = {number: len(data) for number, data in self._contents.items()}  # how far each file was written, and not only grown
        self._names = {path: number for number, path in enumerate(image or {}, start=1)}
        for path in image or {}:
            while path := folder_of(path):
                self._names[path] = FOLDER

    def do(self, operation: Operation) -> None:
        """Take one more operation."""
        if isinstance(operation, Sync | SyncFolder):
            place = operation.file if isinstance(operation, Sync) else operation.path
            for change in self.pending:
                if place_of(change) == place:
                    _apply(change, self._contents, self._names)
            self.pending = [change for change in self.pending if place_of(change) != place]
        else:
            self.pending.append(operation)
            if isinstance(operation, Write):
                self._solid[operation.file] = max(self._solid.get(operation.file, 0), operation.offset + len(operation.data))

    def image(self, changes: Sequence[Change], *, short: bool = False) -> Image:
        """Return the files that are found if these of the pending changes reached the disk, in this order.

        `short`: files that were only grown are not, even if somebody believes to have synced that.
        """
        names = dict(self._names)
        touched = {change.file for change in changes if isinstance(change, Write | Truncate | Grow)}
        contents = {number: bytearray(data) if number in touched else data for number, data in self._contents.items()}
        for change in changes:
            _apply(change, contents, names)
        found = {path: file for path, file in names.items() if file != FOLDER and _reachable(path, names)}
        return {path: contents.get(file, b"")[: self._solid.get(file) if short else None] for path, file in found.items()}

    def states(self, random: Random, *, subsets: int = 3) -> Iterator[tuple[str, list[Change]]]:
        """Return the names of ways in which the power may go now, each with the pending changes that survive it.

        Ways that leave the same changes in the same order are given once.
        """
        pending = self.pending
        seen = set[tuple[int, ...]]()
        for name, changes in _whole(pending, random, subsets):
            identity = tuple(map(id, changes))
            if identity not in seen:
                seen.add(identity)
                yield name, changes
        writes = [n for n, change in enumerate(pending) if isinstance(change, Write)]
        torn = [n for n in writes if len(_sectors(pending[n])) > 1]
        if torn:
            n = random.choice(torn)
            sectors = _sectors(pending[n])
            border = random.randrange(1, len(sectors))
            yield "torn", [*pending[:n], *random.choice((sectors[:border], sectors[border:]))]
            yield "sectors", [piece for change in pending for piece in _sectors(change) if random.random() < 0.5]
        if writes:
            n = random.choice(writes)
            yield "garbled", [*pending[:n], *_garbled(pending[n], random)]


def _whole(pending: list[Change], random: Random, subsets: int) -> Iterator[tuple[str, list[Change]]]:
    yield "synced", []
    yield "all", list(pending)
    for n in range(subsets):
        kept = (0.5, 0.8, 0.2)[n % 3]
        yield f"subset {n}", [change for change in pending if random.random() < kept]
    yield "prefix", pending[: random.randint(0, len(pending))]
    yield "reversed", pending[::-1][: random.randint(0, len(pending))]
    yield "reversed whole", pending[::-1]
    for place in dict.fromkeys(map(place_of, pending)):
        yield f"only {place!r}", [change for change in pending if place_of(change) == place]


def _sectors(change: Change) -> list[Change]:
    """Cut a write where a sector of the disk ends; other changes happen or not."""
    if not isinstance(change, Write):
        return [change]
    file, offset, data = change
    first = SECTOR - offset % SECTOR
    borders = [0, *range(first, len(data), SECTOR), len(data)]
    return [Write(file, offset + a, data[a:b]) for a, b in zip(borders, borders[1:], strict=False)]


def _garbled(change: Change, random: Random) -> list[Change]:
    """Leave a write with one sector of nonsense, as a disk does that lost power in the middle of it."""
    sectors = _sectors(change)
    n = random.randrange(len(sectors))
    spoilt = sectors[n]
    assert isinstance(spoilt, Write)
    sectors[n] = spoilt._replace(data=random.randbytes(len(spoilt.data)))
    return sectors


def _apply(change: Change, contents: dict[int, bytearray], names: dict[str, int]) -> None:
    match change:
        case Write(file, offset, data):
            content = contents.setdefault(file, bytearray())
            if offset > len(content):
                content.extend(bytes(offset - len(content)))
            content[offset : offset + len(data)] = data
        case Truncate(file, size):
            content = contents.setdefault(file, bytearray())
            del content[size:]
            content.extend(bytes(size - len(content)))
        case Grow(file, size):
            content = contents.setdefault(file, bytearray())
            content.extend(bytes(max(0, size - len(content))))
        case Link(path, file):
            names[path] = file
        case Unlink(path):
            names.pop(path, None)


def _reachable(path: str, names: Mapping[str, int]) -> bool:
    while path := folder_of(path):
        if names.get(path) != FOLDER:
            return False
    return True
