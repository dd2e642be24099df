"""What operators want of the fleet, kept in the file, and acted on where it concerns a queue."""

from __future__ import annotations

from typing import Any, Final

from chappe.engines.contract.fleet import PAUSED, QUEUE, TENANT
from chappe.engines.fairness import weight_of
from chappe.engines.file.turn import Turn
from chappe.engines.file.wire import Number

_LATEST: Final = """select number, what, value, who, at from desired
    where number in (select max(number) from desired group by what) and number > ? order by number limit ?"""
_EVERY: Final = (
    "select * from (select number, what, value, who, at from desired where number > ? order by number desc limit ?) order by number"
)


class Desires:
    """The store's side of one file."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def desire(self, what: str, value: str | None, who: str) -> tuple[Any, ...]:
        """Remember what somebody wants; a queue is paused or resumed with it."""
        turn = self._turn
        queue = turn.routes.queue(what.removeprefix(QUEUE)) if what.startswith(QUEUE) else None
        if what.startswith(TENANT) and value is not None:
            weight_of(value)
        turn.write()  # also on a full disk, where work may have to be stopped
        at = turn.now()
        turn.db.execute("insert into desired (what, value, who, at) values (?, ?, ?, ?)", (what, value, who, at))
        if what.startswith(TENANT):
            turn.reload_weights()
        if queue is not None:
            queue.paused = value == PAUSED
        return (turn.db.last_insert_rowid(), what, value, who, at)

    def desired(self, after: Number, every: bool, limit: Number) -> list[Any]:
        """Return what is wanted now, or all that was ever wanted."""
        return self._turn.db.execute(_EVERY if every else _LATEST, (after, max(0, min(limit, 1000)))).fetchall()
