"""What around a file would make it unsafe to own: looked for before an engine opens it, and refused with the reason.

`refuse` is all of it. What concerns SQLite itself and the kind of the disk is in `database.py`.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any, Final, cast

import apsw

from chappe.engines.file import writeahead
from chappe.engines.file.database import open_to_read
from chappe.errors import CorruptStorage, UnsafeStorage

_OURS: Final = ("", "-shm")  # SQLite holds locks on these; closing any descriptor of them in this process drops all of them
_LOOKS: Final = 3


def refuse(path: Path) -> None:
    """Raise `UnsafeStorage` or `CorruptStorage` if an engine must not own this file here and now."""
    refuse_folder(path)
    refuse_second_opening(path)
    refuse_damaged_log(path)


def refuse_folder(path: Path) -> None:
    """Raise `UnsafeStorage` if the folder is gone, or it or the file cannot be written."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UnsafeStorage(
            f"the folder {folder} does not exist; mount its disk, or make it with mkdir -p: "
            "a new file in its place could hide everything that is stored"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UnsafeStorage(f"{folder} cannot be written by this user, and SQLite needs files beside {path.name}; see ls -ld and mount")
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        found = folder / name
        if all(fault := _fault_of(found) for _ in range(_LOOKS)):
            raise UnsafeStorage(fault)


def _fault_of(path: Path) -> str | None:
    """Say why a file cannot be used; whoever owns the database now may remove it, or make it, between any two looks."""
    found = _stat(path)
    if found is None:
        return None
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a file; move it away, or choose another path"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{path} cannot be read and written by this user; see ls -l {path}"
    return None


def refuse_damaged_log(path: Path) -> None:
    """Raise `CorruptStorage` if commits that had been durable are not in the log any more; SQLite would open the file without a word."""
    index = writeahead.index_of(path)
    try:
        with path.open("rb") as file:
            page_size = writeahead.page_size_of(file.read(32))
    except FileNotFoundError:
        return  # `open_database` refuses a log without its file
    hurt = writeahead.hides_commits(path, _frames_taken(path), page_size, index)
    if hurt is not None:
        raise CorruptStorage(
            f"{path}-wal has lost commits that had been durable: {hurt.hurt}; nothing was changed. "
            "Save what is whole with: chappe recover. (If you put an older copy in place, remove -wal and -shm of the file it replaced.)"
        )


def _frames_taken(path: Path) -> int:
    """Ask SQLite how many frames of the log it takes, without having it write any of them back."""
    if not Path(f"{path}-wal").exists():
        return 0
    try:
        db = open_to_read(path)
        try:
            db.execute("select count(*) from sqlite_schema").fetchall()
            return max(0, db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0])
        finally:
            db.close()
    except apsw.Error:
        return 0  # whether the file itself can be read is for `open_database` to say


def refuse_second_opening(path: Path) -> None:
    """Raise `UnsafeStorage` if something else in this process has the file open: what `guard` refuses came before it."""
    files = {(found.st_dev, found.st_ino) for suffix in _OURS if (found := _stat(Path(f"{path}{suffix}"))) is not None}
    for handle in Path("/proc/self/fd").iterdir() if sys.platform == "linux" else ():
        found = _stat(handle)
        if found is not None and (found.st_dev, found.st_ino) in files:
            raise UnsafeStorage(
                f"{path} is open in this process already, by code other than the engine; when that closes it, SQLite's locks are gone: "
                "have it use another process"
            )


def guard(path: Path) -> None:
    """Have Python refuse, from now on, every other opening of the file in this process, with `UnsafeStorage`.

    When any other descriptor of the file is closed, the locks of SQLite are gone, and a second writer can destroy the file
    (sqlite.org/howtocorrupt.html, section 2.2). It cannot be taken back: it is for a process that does nothing but own this file.
    """
    real = path.resolve()
    guarded = {f"{real}{suffix}" for suffix in _OURS}

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "sqlite3.connect") or not arguments or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        name = os.fsdecode(cast("str", arguments[0])).removeprefix("file:").partition("?")[0]
        if real.name in name and os.path.realpath(name) in guarded:
            raise UnsafeStorage(
                f"{path} belongs to the engine in this process: opening it a second time ({event}) would drop SQLite's locks"
            )

    sys.addaudithook(watch)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
