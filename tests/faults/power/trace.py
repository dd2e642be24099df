"""Reads what strace saw of all processes of a host: what they did to the files of one database, and the 202s that left the gateway."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from .disk import FOLDER, Grow, Link, Operation, Sync, SyncFolder, Truncate, Unlink, Write, folder_of

CALLS: Final = (
    "openat,pwrite64,pwritev,write,writev,sendto,sendmsg,fsync,fdatasync,sync_file_range,ftruncate,truncate,fallocate,"
    "unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat"
)
_CALL: Final = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*?)>)?(?: .*)?", re.DOTALL)
_BEGUN: Final = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>", re.DOTALL)
_ENDED: Final = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)(?:<(.*?)>)?(?: .*)?", re.DOTALL)
_FILE: Final = re.compile(r"\d+<(.*?)>")
_TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_TAKEN: Final = re.compile(rb"^HTTP/1\.1 202 .*?\r\nlocation: /messages/([0-9a-f-]+)\r\n", re.DOTALL | re.IGNORECASE)


class Taken(NamedTuple):
    """A 202 begins to leave the gateway: from here on the message with this id is promised."""

    identity: str


class Call(NamedTuple):
    """One system call: its name and arguments, its result, the file it gave, and the lines where it began and ended."""

    name: str
    arguments: str
    result: int
    gave: str
    began: int
    ended: int

    @property
    def file(self) -> str:
        """The path of the file that the first argument names."""
        found = _FILE.match(self.arguments)
        return _unhex(found[1]).decode() if found else ""

    @property
    def texts(self) -> list[bytes]:
        """All strings among the arguments."""
        return [_unhex(text) for text in _TEXT.findall(self.arguments)]

    def number(self, position: int) -> int:
        """Return a number among the last arguments, counted from the end."""
        return int(self.arguments.rsplit(", ", -position)[position])


def calls(trace: Path) -> Iterator[Call]:
    """Return the calls of a trace that succeeded, in the order in which they ended."""
    begun: dict[str, tuple[str, str, int]] = {}
    with trace.open() as lines:
        for number, line in enumerate(lines):
            line = line.rstrip("\n")
            if found := _BEGUN.fullmatch(line):
                begun[found[1]] = (found[2], found[3], number)
            elif found := _ENDED.fullmatch(line):
                name, arguments, began = begun.pop(found[1])
                assert name == found[2], line[:200]
                if int(found[4]) >= 0:
                    yield Call(name, arguments + found[3], int(found[4]), _unhex(found[5] or "").decode(), began, number)
            elif (found := _CALL.fullmatch(line)) and int(found[4]) >= 0:
                yield Call(found[2], found[3], int(found[4]), _unhex(found[5] or "").decode(), number, number)


def read(trace: Path, root: Path, database: Path) -> list[Operation | Taken]:
    """Return what happened to the database and its logs, and when each 202 left.

    What is written counts from the moment when the call began, what is synced from the moment when it ended: in between, both
    may be or not.
    """
    reader = _Reader(str(root.resolve()), {f"{database.resolve()}{kind}" for kind in ("", "-wal", "-journal")})
    placed: list[tuple[int, int, Operation | Taken]] = []
    for call in calls(trace):
        for operation in reader.operations(call):
            place = call.ended if isinstance(operation, Sync | SyncFolder) else call.began
            placed.append((place, len(placed), operation))
    return [operation for _, _, operation in sorted(placed, key=lambda entry: entry[:2])]


class _Reader:
    """Knows which files there are."""

    def __init__(self, root: str, paths: set[str]) -> None:
        self._root = root
        self._paths = paths
        self._numbers: dict[str, int] = {}
        self._sizes: dict[int, int] = {}
        self._last = FOLDER

    def operations(self, call: Call) -> Iterator[Operation | Taken]:
        """Return what a call did."""
        name = call.name
        if name in ("write", "writev", "sendto", "sendmsg") and call.file not in self._paths:
            if taken := _TAKEN.match(b"".join(call.texts)):
                yield Taken(taken[1].decode())
        elif name == "openat":
            if call.gave in self._paths and call.gave not in self._numbers:
                assert "O_CREAT" in call.arguments
                self._last += 1
                self._numbers[call.gave] = self._last
                yield Link(self._short(call.gave), self._last)
        elif name in ("fsync", "fdatasync"):
            if call.file in self._numbers:
                yield Sync(self._numbers[call.file])
            elif call.file == self._root:
                yield SyncFolder("")
        elif name == "unlink":
            path = call.texts[0].decode()
            if path in self._numbers:
                del self._numbers[path]
                yield Unlink(self._short(path))
        elif call.file in self._paths:
            yield self._written(call, self._numbers[call.file])
        else:
            names = {text.decode("utf-8", "replace") for text in call.texts}
            assert not names & self._paths, f"{name} of the database is not expected"

    def _written(self, call: Call, file: int) -> Operation:
        size = self._sizes.get(file, 0)
        if call.name == "pwrite64":
            (data,), offset = call.texts, call.number(-1)
            assert len(data) == call.number(-2), f"line {call.began} was not read whole"
            data = data[: call.result]  # a killed process may have written less
            self._sizes[file] = max(size, offset + len(data))
            grows = offset == size and len(data) > 8192 and not any(data)
            return Grow(file, offset + len(data)) if grows else Write(file, offset, data)
        assert call.name == "ftruncate", f"{call.name} of the database is not expected"
        self._sizes[file] = call.number(-1)
        return Truncate(file, call.number(-1))

    def _short(self, path: str) -> str:
        assert folder_of(path) == self._root
        return path.removeprefix(f"{self._root}/")


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()
