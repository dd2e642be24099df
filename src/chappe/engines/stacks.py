"""What a worker of this host does at this moment, asked and told through a file beside its running table."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from chappe.engines.file.running_tables import folder_of, is_orphan, table_named
from chappe.errors import NotFound

_PATIENCE: Final = 3.0  # seconds for a process that may be in the middle of something
_LOOK: Final = 0.02


class Stack(Struct, frozen=True):
    """A task or thread, the message that it runs if there is one, and its frames, the innermost last: the place, and the code there."""

    name: str
    message: str | None
    frames: list[tuple[str, str]]


def asked_beside(table: Path) -> Path:
    """Return the file into which a process writes its stacks, not to stderr, where somebody has made it beside its running table."""
    return table.with_suffix(".stacks")


async def ask(database: Path, pid: int) -> list[Stack] | None:
    """Have a worker of this host say what it does; None if it does not in time. Raises `NotFound`."""
    file = asked_beside(_table_of(database, pid))
    file.unlink(missing_ok=True)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        os.kill(pid, signal.SIGTTIN)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            try:
                return msgspec.json.decode(file.read_bytes(), type=list[Stack])
            except msgspec.DecodeError:  # it has not written all of it yet
                await asyncio.sleep(_LOOK)
        return None
    except OSError as error:
        raise NotFound(f"process {pid} cannot be asked: {error.strerror}") from None
    finally:
        file.unlink(missing_ok=True)


def _table_of(database: Path, pid: int) -> Path:
    """Return the running table of a worker of this host: process ids come again, its lock on that does not."""
    for table in folder_of(database).glob(f"{pid}-*.running"):
        if table_named(database, table.name) == table and not is_orphan(table):
            return table
    raise NotFound(f"no worker of this host is process {pid}; GET /api/overview has them in clients, and other hosts answer for theirs")
