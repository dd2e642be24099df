"""The messages of one file, opened: what a turn stores of them, which are lent next, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import apsw

from chappe.clocks import steady_clock
from chappe.engines.file import preflight
from chappe.engines.file.database import open_database
from chappe.engines.file.dispatch import Dispatch
from chappe.engines.file.endings import Endings
from chappe.engines.file.owner import Ownership
from chappe.engines.file.turn import Turn
from chappe.errors import BrokerUnavailable, CorruptStorage


class Ledger:
    """The three parts, and what concerns them all."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """Open the file; the caller holds its `Ownership`. Raises the errors of `open_database`."""
        db = open_database(path)
        try:
            self.turn = Turn(path, db, now)
            self.dispatch = Dispatch(self.turn)
        except (apsw.CorruptError, apsw.NotADBError) as error:
            db.close()
            raise CorruptStorage(f"{path} is damaged ({error}); it was left as it is: see chappe recover") from None
        self.endings = Endings(self.turn, self.dispatch)

    def serve(self) -> None:
        """Lend what is ready to those who wait; what cannot be lent to anybody is a dead letter."""
        dispatch = self.dispatch
        dispatch.serve()
        for claim, reason, error in dispatch.spoilt:
            self.endings.dead_letter(claim, reason, error, counted=False)
            dispatch.unfinished = True
        dispatch.spoilt.clear()

    def undo(self) -> None:
        """Take back everything since the last commit, in the file and in memory."""
        self.turn.undo()
        self.dispatch.restart()

    def close(self, *, momentary: bool = False) -> None:
        """Close the file, remembering whether anything was lent; a momentary owner leaves that as it found it."""
        if self.turn.writing:
            self.undo()
        self.turn.close(held=int(self.turn.was_held) if momentary else len(self.turn.claims))


@contextmanager
def owned_for_a_moment(path: Path) -> Generator[Ledger]:
    """Open a file where no engine runs. Raises what `Ownership` and `Ledger` raise, and `BrokerUnavailable` for an error of the disk."""
    try:
        preflight.refuse_folder(path)
        ownership = Ownership(path)
    except OSError as error:
        raise BrokerUnavailable(f"{path} cannot be opened: {error}") from None
    try:
        preflight.refuse_damaged_log(path)  # SQLite would leave the damaged end out, and closing would delete the evidence
        ledger = Ledger(path, steady_clock())
        try:
            yield ledger
        finally:
            ledger.close(momentary=True)
    except (apsw.Error, OSError) as error:
        raise BrokerUnavailable(f"{path} cannot be used: {error}") from None
    finally:
        ownership.close()
