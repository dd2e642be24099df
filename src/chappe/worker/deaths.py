"""Tells a broker which messages the dead workers of this host executed; with a file the engine itself looks."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from chappe.engines.contract.broker import Broker
from chappe.engines.file.running_tables import folder_of, orphans, read_table
from chappe.errors import BrokerError
from chappe.words import counted

log = logging.getLogger("chappe.worker")

_LOOK: Final = 0.1  # seconds: sooner than what a dead worker held is lent to others


@asynccontextmanager
async def telling_deaths(broker: Broker, path: Path) -> AsyncGenerator[None]:
    """Tell each death that was not told before this begins, and meanwhile each as soon as it is seen: one process of a host does it."""
    with _turn(path) as turn:
        if _is_ours(turn):
            await tell_deaths(broker, path)
        watching = asyncio.get_running_loop().create_task(_watch(broker, path, turn))
        try:
            yield
        finally:
            watching.cancel()


@contextmanager
def _turn(path: Path) -> Generator[int]:
    """Open what the process that tells deaths has locked."""
    turn = os.open(folder_of(path) / "deaths.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield turn
    finally:
        os.close(turn)


def _is_ours(turn: int) -> bool:
    """Tell whether this process tells deaths; a forked child of it does not inherit that."""
    try:
        fcntl.lockf(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


async def _watch(broker: Broker, path: Path, turn: int) -> None:
    while True:
        await asyncio.sleep(_LOOK)
        try:
            if _is_ours(turn):
                await tell_deaths(broker, path)
        except BrokerError as error:
            log.warning("cannot tell the death of a worker (%s); trying again", error)


async def tell_deaths(broker: Broker, path: Path) -> None:
    """Tell each death by the tables beside this path, which go when they are told. Raises `BrokerError`."""
    for table in orphans(path):
        account = read_table(table)
        if account is not None and account.death.deliveries:
            log.warning("a worker died while it ran %s", counted(len(account.death.deliveries), "message"))
            await broker.blame(account.death)
        table.unlink(missing_ok=True)
