"""What becomes of clients that are gone: what they held is given back, and what a worker was running when it died is blamed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from chappe.engines.file import running_tables
from chappe.engines.file.boot import is_of_this_boot
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.queues import Session

_LOCK_ENDS: Final = 1.0


class Deaths:
    """Reads the tables of workers that are gone, and removes them when that is stored."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._path = ledger.turn.path
        self._read: list[Path] = []
        self._orphans: list[Path] = []
        self._loop = asyncio.get_running_loop()

    def end(self, session: Session) -> None:
        """Give back what a client held that is gone."""
        table = self._table_of(session)
        if session.claims:
            who = f'worker "{session.info.get("pool", session.name)}" (process {session.info.get("pid", "unknown")})'
            account = running_tables.read_table(table) if table else None
            self._ledger.endings.give_back(session, account and account.death, who)
        self._ledger.dispatch.suspects.close(session)
        if table:
            self._read.append(table)

    def lives(self, session: Session, since: float) -> bool:
        """Tell whether a silent worker is not frozen: its loop is kept by a handler, but its process has beaten since."""
        table = self._table_of(session)
        return table is not None and running_tables.last_beat(table) > since - self._loop.time() + time.monotonic()

    def find_orphans(self) -> None:
        """Look for workers that died with the engine before."""
        self._orphans = running_tables.orphans(self._path)

    def blame_orphans(self) -> None:
        """Blame what workers ran that died with the engine before."""
        for table in self._orphans:
            if is_of_this_boot(table) and (account := running_tables.read_table(table)):
                self._ledger.endings.blame(account.death)
            self._read.append(table)

    def undo(self) -> None:
        """Forget what was read in a turn that was undone: it is read again."""
        self._read.clear()

    def tidy(self) -> None:
        """Remove the tables of which everything is stored."""
        self._orphans.clear()
        read, self._read = self._read, []
        for table in read:
            self._clear_away(table, again=True)

    def _clear_away(self, table: Path, *, again: bool) -> None:
        """Remove the table of a worker that is dead; one that was only given up still writes into it."""
        if running_tables.is_orphan(table):
            table.unlink(missing_ok=True)
        elif again:  # of a process that was killed, its connection may end a moment before its lock
            self._loop.call_later(_LOCK_ENDS, lambda: self._clear_away(table, again=False))

    def _table_of(self, session: Session) -> Path | None:
        return running_tables.table_named(self._path, session.info.get("table"))
