"""Takes a message back that waits: it is cancelled before anybody has begun it."""

from __future__ import annotations

from chappe.engines.contract.results import CANCELLED
from chappe.engines.file.ledger import Ledger

_READY = "select queue, rank, id, message_id, flags, key from ready where message_id = ?"
_DELAYED = "select queue, due, id, message_id, flags, key from delayed where message_id = ?"


def withdraw(ledger: Ledger, message_id: str) -> str | None:
    """Remove a message from all queues in which it waits, and return in which state it was; nothing if it waits nowhere.

    Of a message that is not tracked nobody knows its queue: then everything that waits is looked through.
    """
    turn, state = ledger.turn, None
    row = turn.db.execute("select queue from tracked where message_id = ?", (message_id,)).fetchone()
    known = None if row is None else turn.routes.queues.get(str(row[0]))
    where, values = ("", (message_id,)) if known is None else (" and queue = ?", (message_id, known.id))
    for table, select, column in (("ready", _READY, "rank"), ("delayed", _DELAYED, "due")):
        for queue_id, place, number, *rest in turn.db.execute(select + where, values).fetchall():
            if number in turn.claims:
                continue
            state, queue = table, turn.routes.by_id[queue_id]
            turn.write()
            turn.db.execute(f"delete from {table} where queue = ? and {column} = ? and id = ?", (queue_id, place, number))  # noqa: S608 - constant names
            if table == "ready":
                queue.rows -= 1
            else:
                queue.delayed -= 1
            ledger.endings.removed(queue, [(number, *rest)], CANCELLED)
            ledger.dispatch.refresh(queue)
    return state
