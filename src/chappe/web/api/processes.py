"""What the processes of this host write and do: the logs of its pools, and the stacks of its workers."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct
from starlette.responses import Response

from chappe.app import App
from chappe.engines.stacks import Stack, ask
from chappe.errors import InvalidMessage, NotFound
from chappe.failures import printable
from chappe.redaction import without_secrets
from chappe.roles import LOGS
from chappe.web.api.operations import Part, get, post
from chappe.web.problems import problem

_READ: Final = 256 * 1024  # bytes of a log that one answer may hold
_LONGEST: Final = 4000  # characters of a line
_CURSOR: Final = re.compile(r"(\d{1,20})-(\d{1,18})", re.ASCII)


class _Log(Struct, frozen=True):
    """Some lines of a log; `cursor` goes on behind them, `is_new` says that another file has taken the place of the one before."""

    file: str
    lines: list[str]
    cursor: str
    is_new: bool


class _Stacks(Struct, frozen=True):
    process: int
    at: float
    stacks: list[Stack]


class Processes(Part):
    """The routes of the processes of this host."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self._asking = asyncio.Lock()

    @get("/api/pools/{name}/logs", LOGS)
    async def log(self, name: str, *, cursor: str | None = None, limit: Annotated[int, Meta(ge=0, le=2000)] = 200) -> _Log | Response:
        """Tell what the processes of a pool wrote last on this host, or what they wrote behind a cursor."""
        pools = self._app.settings.pools
        if name not in pools:
            raise NotFound(f'no pool is called "{printable(name[:100])}"; the pools of chappe.toml are: {", ".join(pools)}')
        if (file := pools[name].log) is None:
            raise NotFound(f'pool {name} has no log, so that it writes where chappe run writes; set log = "{name}.log" in chappe.toml')
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise InvalidMessage("the query", {"cursor": "send it as an earlier answer had it"})
        try:
            return await asyncio.to_thread(_read, Path(file), cursor, limit)
        except FileNotFoundError:
            raise NotFound(f"{file} does not exist on this host: no process of {name} has started here") from None
        except OSError as error:
            return problem(503, "The log cannot be read", f"{file}: {error.strerror}")

    @post("/api/processes/{pid:int}/stacks", LOGS)
    async def stacks(self, pid: int) -> _Stacks | Response:
        """Ask a worker of this host what it does now, and tell it: the stack of each of its tasks and threads."""
        async with self._asking:
            stacks = await ask(self._app.settings.path, pid)
        if stacks is None:
            return problem(
                503, "The process does not say what it does", f"process {pid} is frozen, or in a call that does not come back to Python"
            )
        return _Stacks(pid, time.time(), stacks)


def _read(file: Path, cursor: str | None, limit: int) -> _Log:
    """Return whole lines of a file. Raises `OSError`."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as log:
        found = os.fstat(log.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no regular file")
        inode, _, offset = (cursor or "").partition("-")
        is_new = cursor is not None and (int(inode) != found.st_ino or int(offset) > found.st_size)
        begin = 0 if is_new else int(offset) if cursor else max(0, found.st_size - _READ)
        log.seek(begin)
        data = log.read(_READ)
    end = data.rfind(b"\n") + 1 or (len(data) if len(data) == _READ else 0)
    text = without_secrets(data[:end].removesuffix(b"\n").decode("utf-8", "backslashreplace"))  # all at once: each look costs as much
    lines = text.split("\n") if end else []
    if cursor is None:
        lines = lines[1 if begin and len(lines) > 1 else 0 :][-limit:] if limit else []
    shown = [printable(line.rstrip("\r"))[:_LONGEST] for line in lines]
    return _Log(str(file), shown, f"{found.st_ino}-{begin + end}", is_new)
