"""Empties a queue in bounded steps, so that a long one does not keep everybody else waiting."""

from __future__ import annotations

from typing import Final

from noria.engine.ledger import Ledger
from noria.engine.queues import HISTORY, MERGES, TRACKED, UNIQUE, QueueState
from noria.errors import BrokerError

STEP: Final = 5_000

_READY = "select rank, id, message_id, flags, key from ready where queue = ? and (rank, id) > (?, ?) and id <= ? order by rank, id limit ?"
_DELAYED = "select due, id, message_id, flags, key from delayed where queue = ? and id <= ? limit ?"

Row = tuple[int | float, int, str, int, str | None]


def purged(ledger: Ledger, queue: str, *, delete: bool) -> QueueState:
    """Give the queue to be purged; raises `NotFound`, or `BrokerError` if it is to be deleted but not only waited in."""
    found = ledger.routes.queue(queue)
    if delete and (found.running or found.dead):
        raise BrokerError(
            f'queue "{queue}" has {found.running} running and {found.dead} dead messages; end or discard them before deleting it'
        )
    return found


class Purge:
    """The removal of everything that was ready or delayed in a queue when it began."""

    def __init__(self, ledger: Ledger, queue: QueueState) -> None:
        self._ledger = ledger
        self._queue = queue
        self._until = ledger.next_id()
        self._after: tuple[int, int] = (-(2**62), 0)
        self.count = 0

    def step(self, most: int = STEP) -> bool:
        """Remove some; says whether that was all."""
        ledger, queue = self._ledger, self._queue
        ledger.write()
        rows = ledger.db.execute(_READY, (queue.id, *self._after, self._until, most)).fetchall()
        if rows:
            self._after = (rows[-1][0], rows[-1][1])
            free = [row for row in rows if row[1] not in ledger.claims]
            ledger.db.executemany("delete from ready where queue = ? and rank = ? and id = ?", [(queue.id, *row[:2]) for row in free])
            queue.rows -= len(free)
        else:
            free = ledger.db.execute(_DELAYED, (queue.id, self._until, most)).fetchall()
            ledger.db.executemany("delete from delayed where due = ? and id = ?", [row[:2] for row in free])
            queue.delayed -= len(free)
        self._forget(free)
        self.count += len(free)
        ledger.refresh(queue)
        return not rows and len(free) < most

    def _forget(self, rows: list[Row]) -> None:
        """Tidy up what was remembered of them."""
        ledger, queue = self._ledger, self._queue
        ledger.db.executemany("delete from mark where message_id = ?", [(row[2],) for row in rows])
        for _, identity, message_id, flags, key in rows:
            if flags & TRACKED:
                ledger.end_tracked(message_id, "dead", None, "purged")
            if flags & UNIQUE:
                ledger.db.execute("delete from unique_key where message_id = ? and until is null", (message_id,))
            if flags & MERGES:
                ledger.db.execute("delete from pending where queue = ? and key = ? and id = ?", (queue.id, key, identity))
            if flags & HISTORY:
                ledger.db.execute("delete from failure where message_id = ?", (f"{queue.id}/{message_id}",))
                ledger.db.execute("delete from death where message_id = ?", (f"{queue.id}/{message_id}",))
