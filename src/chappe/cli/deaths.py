"""Tells a broker which messages the dead workers of this host executed; with a file the engine itself looks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from chappe.engines.contract.broker import Broker, Death
from chappe.engines.file.running_tables import KILL_AFTER, Account, orphans, read_table
from chappe.errors import BrokerError
from chappe.words import counted

log = logging.getLogger("chappe.worker")

_LOOK: Final = 0.1  # seconds: sooner than what a dead worker held is lent to others


async def tell_deaths(broker: Broker, path: Path) -> None:
    """Tell each death that nobody has told yet, by the tables beside this path. Raises `BrokerError`."""
    for table in orphans(path):
        account = read_table(table)
        if account is not None and account.suspects:
            log.warning("a worker died while it ran %s", counted(len(account.suspects), "message"))
            claimed = table.with_suffix(".told")
            try:
                table.rename(claimed)
            except FileNotFoundError:
                continue  # another worker tells it
            try:
                await broker.blame(death_of(table.name, account))
            except BaseException:
                claimed.rename(table)  # somebody else may be able to
                raise
            claimed.unlink(missing_ok=True)
        else:
            table.unlink(missing_ok=True)


@asynccontextmanager
async def telling_deaths(broker: Broker, path: Path) -> AsyncGenerator[None]:
    """Tell each death that was not told before this begins, and meanwhile each as soon as it is seen."""
    await tell_deaths(broker, path)
    watching = asyncio.get_running_loop().create_task(_watch(broker, path))
    try:
        yield
    finally:
        watching.cancel()


async def _watch(broker: Broker, path: Path) -> None:
    while True:
        await asyncio.sleep(_LOOK)
        try:
            await tell_deaths(broker, path)
        except BrokerError as error:
            log.warning("cannot tell the death of a worker (%s); trying again", error)


def death_of(worker: str, account: Account) -> Death:
    """Return what is told of a worker by the account of its table."""
    deliveries, blame = tuple(sorted(account.suspects)), account.blame
    if blame is None:
        return Death(worker, deliveries, is_sure=account.is_sure)
    if blame.reason == KILL_AFTER:
        error = f"its worker was ended: it ran longer than its kill_after of {blame.limit:g} s"
        return Death(worker, deliveries, error, after=blame.after, is_last=blame.is_last)
    return Death(worker, deliveries, f"its worker was ended: it kept the event loop for {blame.limit:g} s")
