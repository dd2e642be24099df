"""One owner of the file: a lock that the operating system takes back when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import stat
import struct
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from chappe.errors import AlreadyOwned, UnsafeStorage

_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux


def socket_path(database: Path) -> Path:
    """Return the path of the engine's socket: beside the file, or in a private folder if that would be too long."""
    beside = Path(f"{database.resolve()}.sock")
    if len(os.fsencode(beside)) <= _LONGEST_SOCKET_PATH:
        return beside
    folder = Path(tempfile.gettempdir()) / f"chappe-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise UnsafeStorage(
            f"{folder} is not a private folder of this user ({stat.filemode(found.st_mode)}, user {found.st_uid}); remove it, "
            "set TMPDIR to a folder of your own, or put the database where its path is shorter"
        )
    return folder / f"{hashlib.sha256(os.fsencode(beside)).hexdigest()[:32]}.sock"


def is_of_this_user(connected: socket.socket | None) -> bool:
    """Tell whether the process at the other end of a Unix socket belongs to this user, or to root."""
    if connected is None or not hasattr(socket, "SO_PEERCRED"):
        return True
    _, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (os.getuid(), 0)


def is_served(database: Path) -> bool:
    """Tell whether an engine of this user listens for a file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_path(database)))
        except OSError:
            return False
        return is_of_this_user(probe)


class Ownership:
    """Holds the lock beside the file until it is closed or the process dies."""

    def __init__(self, database: Path) -> None:
        """Take the lock; raises `AlreadyOwned` with the owner's process id.

        The lock file is not the database: closing any descriptor of that would drop SQLite's own locks.
        """
        self._path = Path(f"{database.resolve()}.lock")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UnsafeStorage(f"{self._path} is a symbolic link; remove it: a lock elsewhere would keep nobody out") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._handle)
            raise AlreadyOwned(f"{database} is owned by process {owner}; there is one engine for each file") from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
