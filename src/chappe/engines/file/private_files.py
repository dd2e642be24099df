"""The file and what lies beside it belong to one user: links, files of others and folders that others can change are refused."""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chappe.errors import UnsafeStorage

log = logging.getLogger("chappe.file")

_BESIDE: Final = ("-wal", "-shm", "-journal", ".lock", ".reserve", ".running", ".processes", ".history")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def keep_private(path: Path, on_open: Callable[[Path, int], None] | None = None) -> None:
    """Raise `UnsafeStorage` for what another user could have put there, and take from others what they may do with our files.

    With `on_open` nothing is changed: it is told each file that others may read, and its mode. No engine of this process has the file open.
    """
    _refuse_link(path)
    real = path.resolve()
    _refuse_shared_folder(real.parent)
    for file in (real, *(Path(f"{real}{suffix}") for suffix in _BESIDE)):
        _keep_private(file, on_open)


def group_that_may_replace(path: Path) -> str | None:
    """Return the group whose members can replace the file in its folder; none if that is nobody but its user."""
    folder = path.resolve().parent.stat()
    if not folder.st_mode & stat.S_IWGRP or folder.st_mode & stat.S_ISVTX:
        return None
    try:
        group = grp.getgrgid(folder.st_gid)
        users = {pwd.getpwuid(user).pw_name for user in (folder.st_uid, os.geteuid())}
    except KeyError:
        return str(folder.st_gid)
    return None if group.gr_name in users and users.issuperset(group.gr_mem) else group.gr_name


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, in place of what is there, a link too; raises `OSError`."""
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, survive a loss of power; raises `OSError`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_link(path: Path) -> None:
    """A link is the choice of who may make one there: it is followed only where that is nobody but this user and root."""
    with contextlib.suppress(FileNotFoundError):
        found, folder = path.lstat(), path.absolute().parent.stat()
        if stat.S_ISLNK(found.st_mode) and (found.st_uid not in (os.geteuid(), 0) or folder.st_mode & stat.S_IWOTH):
            raise UnsafeStorage(
                f"{path} is a symbolic link that another user could have made; name the file itself, in a folder of your own"
            )


def _refuse_shared_folder(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = folder.stat()
        if found.st_uid not in (os.geteuid(), 0):
            raise UnsafeStorage(
                f"{folder} belongs to user {found.st_uid}, who could replace the file; choose a folder of your own, or run as that user"
            )
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise UnsafeStorage(f"every user can replace files in {folder}; change that with: chmod o-w {folder}")


def _keep_private(file: Path, on_open: Callable[[Path, int], None] | None) -> None:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeStorage(f"{file} is a symbolic link; remove it: what it leads to would be overwritten") from None
        return  # that it cannot be used is said elsewhere
    try:
        found = os.fstat(handle)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return
        if found.st_uid != os.geteuid():
            raise UnsafeStorage(
                f"{file} belongs to user {found.st_uid}, not to user {os.geteuid()} who runs this; move it away, run as that user, "
                f"or make it yours if you know what is in it: chown {os.geteuid()} {file}"
            )
        if found.st_mode & _OTHERS:
            if on_open is not None:
                on_open(file, stat.S_IMODE(found.st_mode))
                return
            os.fchmod(handle, found.st_mode & 0o700)
            log.warning("%s had mode %o: it is only for its user now", file, stat.S_IMODE(found.st_mode))
    finally:
        os.close(handle)
