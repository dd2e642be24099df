"""Empties a queue in bounded steps, so that a long one does not keep everybody else waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chappe.engines.file.ledger import Ledger
from chappe.engines.file.queues import HISTORY, MERGES, TRACKED, UNIQUE, QueueState
from chappe.errors import BrokerError
from chappe.words import counted

STEP: Final = 5_000

_READY = "select rank, id, message_id, flags, key from ready where queue = ? and (rank, id) > (?, ?) and id <= ? order by rank, id limit ?"
_DELAYED = "select due, id, message_id, flags, key from delayed where queue = ? and id <= ? limit ?"

Row = tuple[int | float, int, str, int, str | None]
Forgotten = tuple[int, str, int, str | None]


class Purge:
    """The removal of what is ready and delayed in a queue when it begins; what becomes due meanwhile may stay.

    With `delete` nothing is routed to the queue any more, and it is removed when it is empty.
    """

    def __init__(self, ledger: Ledger, queue: str, *, delete: bool) -> None:
        """Begin; raises `NotFound`, or `BrokerError` if the queue is to be deleted but has running or dead messages."""
        self._ledger = ledger
        self._queue = ledger.routes.queue(queue)
        self._delete = delete
        self._refuse_loss()
        self._until = 2**62 if delete else ledger.next_id()
        self._after: tuple[int, int] = (-(2**62), 0)
        self._delayed_left = True
        self.count = 0
        if delete:
            ledger.routes.close(self._queue, closed=True)

    def step(self, most: int = STEP) -> bool:
        """Remove some; says whether that was all. Raises `BrokerError` if a message began to run in a queue to be deleted."""
        ledger, queue = self._ledger, self._queue
        self._refuse_loss()
        ledger.write()
        if self._delayed_left:
            rows = ledger.db.execute(_DELAYED, (queue.id, self._until, most)).fetchall()
            ledger.db.executemany("delete from delayed where due = ? and id = ?", [row[:2] for row in rows])
            queue.delayed -= len(rows)
            self._delayed_left = len(rows) == most
            left = True
        else:
            found: list[Row] = ledger.db.execute(_READY, (queue.id, *self._after, self._until, most)).fetchall()
            if found:
                self._after = (int(found[-1][0]), found[-1][1])
            rows = [row for row in found if row[1] not in ledger.claims]
            ledger.db.executemany("delete from ready where queue = ? and rank = ? and id = ?", [(queue.id, *row[:2]) for row in rows])
            queue.rows -= len(rows)
            left = bool(found)
        forget(ledger, queue, [row[1:] for row in rows], "purged")
        self.count += len(rows)
        ledger.touch(queue)
        if left:
            return False
        ledger.refresh(queue)
        if self._delete and ledger.routes.by_id.get(queue.id) is queue:  # else another purge was faster
            ledger.routes.remove(queue)
        return True

    def abandon(self) -> None:
        """Route to the queue again: the purge does not end."""
        ledger, queue = self._ledger, self._queue
        ledger.routes.close(queue, closed=False)
        if ledger.routes.by_id.get(queue.id) is queue:  # else the turn that declared it was undone
            ledger.refresh(queue)  # what waited for a key whose message was removed is behind the cursor

    def _refuse_loss(self) -> None:
        queue = self._queue
        if self._delete and (queue.running or queue.dead):
            raise BrokerError(
                f'queue "{queue.name}" has {queue.running} running and {counted(queue.dead, "dead message")}; '
                "end or discard them before deleting it"
            )


def forget(ledger: Ledger, queue: QueueState, rows: Sequence[Forgotten], why: str) -> None:
    """Tidy up what was remembered of messages that were removed before they ended: each by its id, message id, flags and key."""
    if not queue.owner:
        ledger.db.executemany("delete from mark where message_id = ?", [(row[1],) for row in rows])
    for identity, message_id, flags, key in rows:
        if key is not None and queue.held.get(key) == identity:
            del queue.held[key]
        if flags & TRACKED:
            ledger.end_tracked(message_id, "dead", None, why)
        if flags & UNIQUE:
            ledger.db.execute("delete from unique_key where message_id = ? and until is null", (message_id,))
        if flags & MERGES:
            ledger.db.execute("delete from pending where queue = ? and key = ? and id = ?", (queue.id, key, identity))
        if flags & HISTORY:
            ledger.db.execute("delete from failure where message_id = ?", (f"{queue.id}/{message_id}",))
            ledger.db.execute("delete from death where message_id = ?", (f"{queue.id}/{message_id}",))
