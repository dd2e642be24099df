"""What processes under the storm observe: one line each, appended with one write, so that a kill loses at most the last.

Every process has a file of its own. Times are of the monotonic clock, which all processes of a host share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process that wrote something: ids of processes come again, so its first line's time belongs to it."""

    pid: int
    born: float


class Line(NamedTuple):
    """One observation: when, by which process, what, of which message; `more` depends on the word."""

    at: float
    process: Process
    word: str
    name: str
    more: str = ""


class Journal:
    """The file of one process; its name has the process id, so that nobody writes behind a torn line."""

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / f"{kind}.{os.getpid()}.{time.monotonic_ns()}"
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, word: str, name: str, more: str = "") -> None:
        """Append one line."""
        os.write(self._handle, f"{time.monotonic():.6f} {word} {name} {more}\n".encode())

    def write_all(self, word: str, names: list[str]) -> None:
        """Append one line for each name, with one write."""
        now = f"{time.monotonic():.6f}"
        os.write(self._handle, "".join(f"{now} {word} {name} \n" for name in names).encode())


class Reader:
    """Reads the files of a folder as they grow; a line without its end is read when the end came, or never."""

    def __init__(self, folder: Path, kind: str = "*") -> None:
        self._folder = folder
        self._kind = kind
        self._at: dict[str, int] = {}

    def read(self) -> Iterator[Line]:
        """Return what was written since the last time, each file's lines in their order."""
        for path in sorted(self._folder.glob(f"{self._kind}.*.*")):
            _, pid, born = path.name.rsplit(".", 2)
            process = Process(int(pid), int(born) / 1e9)
            with path.open("rb") as file:
                file.seek(self._at.get(path.name, 0))
                text = file.read()
            whole = text.rfind(b"\n") + 1
            self._at[path.name] = self._at.get(path.name, 0) + whole
            for line in text[:whole].decode().splitlines():
                at, word, name, more = line.split(" ", 3)
                yield Line(float(at), process, word, name, more)
