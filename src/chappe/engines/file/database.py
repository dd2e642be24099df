"""Opens the SQLite file safely, or refuses and leaves it untouched."""

from __future__ import annotations

import importlib.resources
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast
from urllib.parse import quote

import apsw

from chappe.engines.file.private_files import keep_private, sync
from chappe.errors import CorruptStorage, UnsafeStorage

APPLICATION_ID: Final = 0x4E6F7269  # "Nori"
_NETWORK: Final = {0x6969: "NFS", 0x517B: "SMB", 0xFF534D42: "CIFS", 0xFE534D42: "SMB2", 0x01021997: "9p", 0x65735546: "FUSE"}
_PRAGMAS: Final = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: one fsync for each commit; a power failure loses nothing that was acknowledged
    "foreign_keys": 1,
    "trusted_schema": 0,
    "mmap_size": 0,  # an I/O error must be an error, not a SIGBUS
    "temp_store": 2,
}


_FLAGS: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOFOLLOW
LOCK_WAIT: Final = 2000  # milliseconds to wait for a lock
PASSING: Final = (  # the disk or this moment is at fault, not the file: whoever opens it decides whether to try again
    apsw.BusyError, apsw.CantOpenError, apsw.FullError, apsw.IOError, apsw.NoMemError, apsw.ProtocolError, apsw.ReadOnlyError,
)  # fmt: skip


class Cursor(Protocol):
    """The rows of a statement, whose types are those of the schema."""

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Database(Protocol):
    """What the engine uses of an `apsw.Connection`."""

    def execute(self, statements: str, bindings: Sequence[Any] = ...) -> Cursor: ...

    def executemany(self, statements: str, sequenceofbindings: Iterable[Sequence[Any]]) -> Cursor: ...

    def pragma(self, name: str, value: Any = ...) -> Any: ...

    def last_insert_rowid(self) -> int: ...

    def changes(self) -> int: ...

    def get_autocommit(self) -> bool: ...

    def set_busy_timeout(self, milliseconds: int) -> None: ...

    def set_wal_hook(self, callable: Callable[[Any, str, int], int]) -> None: ...  # noqa: A002 - apsw's name

    def wal_checkpoint(self, dbname: str | None = ..., mode: int = ...) -> tuple[int, int]: ...

    def close(self) -> None: ...


def migrations() -> list[tuple[int, str]]:
    """Return the numbered migrations that this Chappe knows, in order."""
    folder = importlib.resources.files("chappe.engines.file").joinpath("sql")
    found = [(int(entry.name.split("_")[0]), entry.read_text()) for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted(found)


def refuse_unsafe_sqlite(version: int = apsw.SQLITE_VERSION_NUMBER) -> None:
    """Raise `UnsafeStorage` for a SQLite with the WAL-reset bug, which can corrupt the file (sqlite.org, 3.51.3)."""
    fixed = version >= 3051003 or 3050007 <= version < 3051000 or 3044006 <= version < 3045000
    if not fixed:
        raise UnsafeStorage(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a database in WAL mode (fixed in 3.51.3); "
            "install a current apsw: pip install -U apsw"
        )


def refuse_network_disk(path: Path) -> None:
    """Raise `UnsafeStorage` if the folder is on a network file system, where locks do not hold."""
    kind = _file_system(path.parent)
    if kind in _NETWORK and not os.environ.get("CHAPPE_ALLOW_NETWORK_DISK"):
        raise UnsafeStorage(
            f"{path.parent} is on {_NETWORK[kind]}, where SQLite's locks cannot be trusted; put the file on a local disk "
            f"(CHAPPE_ALLOW_NETWORK_DISK=1 overrides this at your own risk)"
        )


def _file_system(folder: Path) -> int:
    if sys.platform != "linux":
        return 0
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(folder), buffer) != 0:
        return 0
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF


def open_database(path: Path) -> Database:
    """Open or create the file, with every setting read back and the schema migrated.

    Raises `UnsafeStorage` or `CorruptStorage`, or one of `PASSING` if it may be opened another time; the caller holds the owner's lock.
    """
    refuse_unsafe_sqlite()
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_network_disk(path)
    keep_private(path)
    fresh = not path.exists() or path.stat().st_size == 0
    if fresh and Path(f"{path}-wal").exists() and Path(f"{path}-wal").stat().st_size > 0:
        raise CorruptStorage(
            f"{path} is missing or empty, but its -wal file is there: it was truncated or half copied; nothing was changed"
        )
    if not path.exists():
        # SQLite gives -wal and -shm the mode of the file.
        os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        db = cast("Database", apsw.Connection(os.path.realpath(path), flags=_FLAGS))
    except PASSING:
        raise
    except apsw.Error as error:
        raise CorruptStorage(f"{path} cannot be opened as a database: {error}") from None
    try:
        _configure(db, path, fresh=fresh)
    except PASSING:
        db.close()
        raise
    except apsw.Error as error:
        db.close()
        raise CorruptStorage(
            f"{path} cannot be read as a Chappe file ({error}); it was left as it is, restore a copy or choose another path"
        ) from None
    except Exception:
        db.close()
        raise
    if fresh:
        _sync_names(path.parent.resolve())
    return db


def open_to_read(path: Path, mode: str = "mode=ro") -> Database:
    """Open a file without changing it; with the mode `immutable=1` nobody else may. Raises `apsw.Error`."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return cast("Database", apsw.Connection(f"file:{quote(str(path.resolve()))}?{mode}", flags=flags))


def _configure(db: Database, path: Path, *, fresh: bool) -> None:
    db.set_busy_timeout(LOCK_WAIT)
    if fresh:
        db.execute("pragma page_size=4096")
    else:
        mark = db.pragma("application_id")
        begun = mark == 0 and db.execute("select count(*) from sqlite_schema").fetchone()[0] == 0  # by us, and cut short
        if mark != APPLICATION_ID and not begun:
            raise CorruptStorage(f"{path} is an SQLite file of another program (application_id {mark}); it was left as it is")
    for name, wanted in _PRAGMAS.items():
        db.pragma(name, wanted)
        found = db.pragma(name)
        if found != wanted:
            raise UnsafeStorage(f"{path}: pragma {name} is {found!r} and cannot be set to {wanted!r} on this disk")
    # Not more: a commit that split a page within the tree looks through the whole cache, see docs/decisions/performance.md.
    db.pragma("cache_size", -16384)
    db.pragma("wal_autocheckpoint", 0)  # the ledger does it, between two turns, and hears of its errors
    db.pragma("journal_size_limit", 64 * 1024 * 1024)
    _migrate(db, path)


def _migrate(db: Database, path: Path) -> None:
    known = migrations()
    version = int(db.pragma("user_version"))
    newest = known[-1][0]
    if version > newest:
        raise CorruptStorage(f"{path} has schema {version}, made by a newer Chappe; this one knows {newest}: upgrade chappe")
    for number, sql in known:
        if number > version:
            db.execute("begin immediate")
            try:
                db.execute(sql)
                db.pragma("application_id", APPLICATION_ID)
                db.pragma("user_version", number)
                db.execute("commit")
            except BaseException:
                if not db.get_autocommit():  # SQLite has taken it back itself after some errors of the disk
                    db.execute("rollback")
                raise


def _sync_names(folder: Path) -> None:
    """Have the name of a new file survive a loss of power, and those of the folders above it, which may be new as well."""
    for above in (folder, *folder.parents):
        try:
            sync(above)
        except PermissionError:
            return  # it is not ours, so it was there before
