"""Records what SQLite and Chappe do to the files of a database: an SQLite VFS over the real one, and an ear at `os.fsync`.

What is written past SQLite is found when the file is next written, synced or opened, and counts as not synced until its writer,
or SQLite on the same file, syncs it. At the end `check` compares the recorded files with the real ones: nothing may have escaped.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from .disk import FOLDER, Grow, Image, Link, Operation, Sync, SyncFolder, Truncate, Unlink, Write, folder_of
from .tape import Index, Tape

_REAL: Final = "unix"
_INDEX_SIZE: Final = 136  # its header, twice, and how far the log was written back (sqlite.org/walformat.html, section 2)
_NAME: Final = "recorded"
_KINDS: Final = ("", "-wal", "-journal")
SQLITE_SYNCS_FOLDERS = True  # os_unix.c does, with the first sync of a log that it has made; a plant takes that away
_NEW_LOGS: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class _Copy:
    """What a recorded file holds now, and its number."""

    def __init__(self, number: int, data: bytes | bytearray = b"") -> None:
        self.number = number
        self.data = bytearray(data)
        self.sync_folder = False


class Recorder:
    """Writes onto a tape what happens to one database and its logs below a folder that was always there, with the files of `base`."""

    def __init__(self, tape: Tape, root: Path, database: Path, base: Image) -> None:
        self.handles: list[int] = []
        self._tape = tape
        self._root = str(root.resolve())
        self._paths = {str(database.resolve()) + kind for kind in _KINDS}
        self._copies = {str(root.resolve() / path): _Copy(number, data) for number, (path, data) in enumerate(base.items(), start=1)}
        self._folders = {folder for path in base for folder in _folders_of(path)}
        self._numbers = len(base)
        self._shm = Path(f"{database.resolve()}-shm")
        self._handle = -1  # of it; closed at the end only, because that drops SQLite's locks
        self._index = b""

    def takes(self, path: str | None) -> bool:
        """Tell whether a file is recorded."""
        return path in self._paths

    def opened(self, path: str, *, log: bool) -> None:
        """Notice an opened file, which may be new, or may have been written past SQLite."""
        new = path not in self._copies
        self.look(path)
        self._copies[path].sync_folder = new and log and SQLITE_SYNCS_FOLDERS

    def wrote(self, path: str, offset: int, data: bytes) -> None:
        """Notice a write."""
        copy = self._copies[path]
        self._look_at_index()
        if offset + len(data) > len(copy.data):
            copy.data.extend(bytes(offset + len(data) - len(copy.data)))
        copy.data[offset : offset + len(data)] = data
        self._log(Write(copy.number, offset, data))

    def cut(self, path: str, size: int) -> None:
        """Notice a changed size."""
        copy = self._copies[path]
        del copy.data[size:]
        copy.data.extend(bytes(size - len(copy.data)))
        self._log(Truncate(copy.number, size))

    def synced(self, path: str) -> None:
        """Notice a sync by SQLite."""
        copy = self._copies[path]
        self._log(Sync(copy.number))
        if copy.sync_folder:
            copy.sync_folder = False
            self._log(SyncFolder(folder_of(self._short(path))))

    def removed(self, path: str, *, sync: bool) -> None:
        """Notice a removed file."""
        if self._copies.pop(path, None) is not None:
            self._log(Unlink(self._short(path)))
            if sync and SQLITE_SYNCS_FOLDERS:
                self._log(SyncFolder(folder_of(self._short(path))))

    def fsync(self, target: str) -> None:
        """Notice a sync by Chappe itself, of a file or of a folder."""
        if target in self._paths:
            self.look(target)
            self._log(Sync(self._copies[target].number))
        elif target == self._root or target.startswith(self._root + "/"):
            for path in self._paths:
                if os.path.exists(path):
                    self.look(path)
            self._log(SyncFolder(self._short(target)))

    def look(self, path: str) -> None:
        """Record what was done to a file past SQLite."""
        copy = self._copies.get(path)
        if copy is None:
            copy = self._new(path)
        real = Path(path).read_bytes()
        if real == copy.data:
            return
        if len(real) < len(copy.data):
            self.cut(path, len(real))
        known = bytes(copy.data)
        same = len(known) if real.startswith(known) else len(os.path.commonprefix([real, known]))
        if same == len(known) and not any(real[same:]):
            copy.data.extend(bytes(len(real) - same))
            self._log(Grow(copy.number, len(real)))
        elif same < len(real):
            self.wrote(path, same, real[same:])

    def grown(self, path: str) -> None:
        """Record that a file is longer than SQLite has made it."""
        copy = self._copies[path]
        if os.stat(path).st_size != len(copy.data):
            self.look(path)

    def _look_at_index(self) -> None:
        if self._handle < 0 or os.fstat(self._handle).st_nlink == 0:
            if not self._shm.exists():
                return
            self._handle = os.open(self._shm, os.O_RDONLY | os.O_CLOEXEC)
            self.handles.append(self._handle)
        index = os.pread(self._handle, _INDEX_SIZE, 0)
        if index != self._index:
            self._index = index
            self._tape.events.append(Index(index))

    def check(self) -> None:
        """Raise `AssertionError` if anything happened that was not recorded, but that a file grew after all else."""
        assert {path for path in self._paths if os.path.exists(path)} == set(self._copies)
        for path, copy in self._copies.items():
            real = Path(path).read_bytes()
            assert real.startswith(copy.data), f"{path} was changed unseen"
            assert not any(real[len(copy.data) :]), f"{path} was written behind its end unseen"

    def _new(self, path: str) -> _Copy:
        for folder in reversed(_folders_of(self._short(path))):
            if folder not in self._folders:
                self._folders.add(folder)
                self._log(Link(folder, FOLDER))
        self._numbers += 1
        copy = self._copies[path] = _Copy(self._numbers)
        self._log(Link(self._short(path), copy.number))
        return copy

    def _short(self, path: str) -> str:
        return "" if path == self._root else posixpath.relpath(path, self._root)

    def _log(self, operation: Operation) -> None:
        self._tape.events.append(operation)


def _folders_of(path: str) -> list[str]:
    folders: list[str] = []
    while path := folder_of(path):
        folders.append(path)
    return folders


class _Vfs(apsw.VFS):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__(_NAME, _REAL, makedefault=True)
        self._recorder = recorder

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not self._recorder.takes(path):
            return apsw.VFSFile(_REAL, name, flags)
        return _File(self._recorder, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self._recorder.removed(filename, sync=syncdir)


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(_REAL, name, flags)
        self._recorder = recorder
        self._path = path
        recorder.opened(path, log=bool(flags[0] & _NEW_LOGS and flags[0] & apsw.SQLITE_OPEN_CREATE))

    def xWrite(self, data: bytes, offset: int) -> None:
        self._recorder.grown(self._path)
        super().xWrite(data, offset)
        self._recorder.wrote(self._path, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:
        self._recorder.grown(self._path)
        super().xTruncate(newsize)
        self._recorder.cut(self._path, newsize)
        self._recorder.grown(self._path)  # where a chunk size is set, the file stays longer

    def xSync(self, flags: int) -> None:
        self._recorder.grown(self._path)
        super().xSync(flags)
        self._recorder.synced(self._path)

    def xFileControl(self, op: int, ptr: int) -> bool:
        understood = super().xFileControl(op, ptr)
        self._recorder.grown(self._path)
        return understood


@contextmanager
def recording(tape: Tape, root: Path, database: Path, base: Image | None = None) -> Iterator[Recorder]:
    """Make the recorder what SQLite uses in this process, until the end; `base` are the files that are there, and durable."""
    recorder = Recorder(tape, root, database, base or {})
    vfs = _Vfs(recorder)
    real = os.fsync, os.fdatasync

    def fsync(handle: int) -> None:
        real[0](handle)
        recorder.fsync(os.readlink(f"/proc/self/fd/{handle if isinstance(handle, int) else handle.fileno()}"))

    os.fsync = os.fdatasync = fsync
    try:
        yield recorder
    finally:
        os.fsync, os.fdatasync = real
        apsw.set_default_vfs(_REAL)
        vfs.unregister()
        for handle in recorder.handles:
            os.close(handle)
