"""Empties a queue in bounded steps, so that a long one does not keep everybody else waiting."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from chappe.engines.file.connection import BrokenProtocol, Connection
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.queues import QueueState
from chappe.engines.file.wire import Request
from chappe.errors import BrokerError, ChappeError
from chappe.words import counted

STEP: Final = 5_000

_purge: Final = msgspec.msgpack.Decoder(tuple[str, bool]).decode

_READY = "select rank, id, message_id, flags, key from ready where queue = ? and (rank, id) > (?, ?) and id <= ? order by rank, id limit ?"
_DELAYED = "select due, id, message_id, flags, key from delayed where queue = ? and id <= ? limit ?"

Row = tuple[int | float, int, str, int, str | None]


class Purge:
    """The removal of what is ready and delayed in a queue when it begins; what becomes due meanwhile may stay.

    With `delete` nothing is routed to the queue any more, and it is removed when it is empty.
    """

    def __init__(self, ledger: Ledger, queue: str, *, delete: bool) -> None:
        """Begin; raises `NotFound`, or `BrokerError` if the queue is to be deleted but has running or dead messages."""
        self._ledger = ledger
        self._turn = turn = ledger.turn
        self._queue = turn.routes.queue(queue)
        self._delete = delete
        self._refuse_loss()
        self._until = 2**62 if delete else turn.next_id()
        self._after: tuple[int, int] = (-(2**62), 0)
        self._delayed_left = True
        self.count = 0
        if delete:
            turn.routes.close(self._queue, closed=True)

    def step(self, most: int = STEP) -> bool:
        """Remove some; says whether that was all. Raises `BrokerError` if a message began to run in a queue to be deleted."""
        turn, queue = self._turn, self._queue
        self._refuse_loss()
        turn.write()
        if self._delayed_left:
            rows = turn.db.execute(_DELAYED, (queue.id, self._until, most)).fetchall()
            turn.db.executemany("delete from delayed where due = ? and id = ?", [row[:2] for row in rows])
            queue.delayed -= len(rows)
            self._delayed_left = len(rows) == most
            left = True
        else:
            found: list[Row] = turn.db.execute(_READY, (queue.id, *self._after, self._until, most)).fetchall()
            if found:
                self._after = (int(found[-1][0]), found[-1][1])
            rows = [row for row in found if row[1] not in turn.claims]
            turn.db.executemany("delete from ready where queue = ? and rank = ? and id = ?", [(queue.id, *row[:2]) for row in rows])
            queue.rows -= len(rows)
            left = bool(found)
        self._ledger.endings.removed(queue, [row[1:] for row in rows], "purged")
        self.count += len(rows)
        turn.changed.add(queue)
        if left:
            return False
        self._ledger.dispatch.refresh(queue)
        if self._delete and turn.routes.by_id.get(queue.id) is queue:  # else another purge was faster
            turn.routes.remove(queue)
        return True

    def abandon(self) -> None:
        """Route to the queue again: the purge does not end."""
        turn, queue = self._turn, self._queue
        turn.routes.close(queue, closed=False)
        if turn.routes.by_id.get(queue.id) is queue:  # else the turn that declared it was undone
            self._ledger.dispatch.refresh(queue)  # what waited for a key whose message was removed is behind the cursor

    def _refuse_loss(self) -> None:
        queue = self._queue
        if self._delete and (queue.running or queue.dead):
            raise BrokerError(
                f'queue "{queue.name}" has {queue.running} running and {counted(queue.dead, "dead message")}; '
                "end or discard them before deleting it"
            )


class Purges:
    """The purges that go on, each by the client that asked and the number of its request."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.going: dict[tuple[Connection, int], Purge] = {}
        self.nobody = Connection(lambda _: None, lambda: None)  # who asks for what the engine does by itself
        self._ended: list[tuple[Connection, int]] = []
        self._left: set[QueueState] = set()  # temporary queues whose owners were not here at the last look

    def begin(self, connection: Connection, request: Request) -> None:
        """Begin to empty a queue, a bounded part of it in each turn."""
        queue, delete = _purge(request.arguments)
        if (connection, request.serial) in self.going:
            raise BrokenProtocol(f"bad request: {request.serial} is a purge that goes on already")
        self.going[connection, request.serial] = Purge(self._ledger, queue, delete=delete)

    def step(self, connection: Connection, serial: int) -> bool:
        """Go on with one, and tell whether it is answered."""
        purge = self.going[connection, serial]
        try:
            if not purge.step():
                return False
            connection.answer(serial, purge.count)
        except BrokerError as error:
            connection.refuse(serial, error)
            purge.abandon()
        self._ended.append((connection, serial))
        return True

    def undo(self) -> None:
        """Forget what ended in a turn that was undone."""
        self._ended.clear()

    def tidy(self) -> None:
        """Forget what ended in a turn that is stored."""
        for place in self._ended:
            del self.going[place]
        self._ended.clear()

    def forget(self, connection: Connection, serial: int) -> None:
        """Give one up without an answer."""
        begun = self.going.pop((connection, serial), None)
        if begun is not None:
            begun.abandon()

    def refuse(self, error: ChappeError) -> None:
        """Give all up."""
        for (connection, serial), purge in self.going.items():
            purge.abandon()
            connection.refuse(serial, error)
            connection.flush()
        self.going.clear()

    def clear_after(self, here: Collection[str]) -> bool:
        """Begin to remove the temporary queues of clients that are gone, and tell whether there are any."""
        left = {queue for queue in self._ledger.turn.routes.queues.values() if queue.owner and queue.owner not in here}
        empty = [queue for queue in left & self._left if not (queue.closed or queue.running or queue.dead)]
        for queue in empty:  # who was missed before too does not come back
            self.going[self.nobody, queue.id] = Purge(self._ledger, queue.name, delete=True)
        self._left = left
        return bool(empty)
