"""What `chappe move` asks of a file: all that is known of messages, the removal of delayed ones, and dead letters of elsewhere."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from chappe.bounds import Number, Seconds
from chappe.engines.contract.letters import Exported
from chappe.engines.file.endings import INSERT_DEAD, NEVER, Endings
from chappe.engines.file.queues import MERGES, TRACKED, QueueState, Session
from chappe.engines.file.seal import seal, unseal_or_stand_in
from chappe.engines.file.turn import Turn
from chappe.engines.file.wire import encode
from chappe.errors import Rejected

_MORE = """(select name from unique_key u where flags & 2 > 0 and u.message_id = m.message_id limit 1),
    (select until from unique_key u where flags & 2 > 0 and u.message_id = m.message_id limit 1), envelope"""
_RUNNING = (
    "select id, message_id, attempt, null, rank, flags, key, " + _MORE + " from ready m where queue = ? and rank = ? and id = ?"
)  # fmt: skip
_DELAYED = (
    "select id, message_id, attempt, due, rank, flags, key, " + _MORE + " from delayed m where queue = ? and due > ?"
    " order by due, id limit ?"
)  # fmt: skip
_ONE = "select due, id, message_id, flags, key from delayed where queue = ? and id = ?"
_DEAD = (
    "select number, message_id, attempts, null, rank, flags, key, " + _MORE + ", reason, error, died_at, history from dead m"
    " where queue = ? and number > ? order by number limit ?"
)  # fmt: skip
MOVED = "moved to another engine"


class Transfer:
    """The carrying of messages out of one file, and of dead letters into it."""

    def __init__(self, turn: Turn, endings: Endings) -> None:
        self._turn = turn
        self._endings = endings

    def export_messages(self, session: Session, queue: str, state: str, after: Number, later: Seconds, limit: Number) -> list[Any]:
        """Show what is delayed for longer than `later` seconds, dead with a number above `after`, or running at this session."""
        turn, limit = self._turn, max(0, min(limit, 1000))
        found = turn.routes.queue(queue)
        if state == "delayed":
            rows = turn.db.execute(_DELAYED, (found.id, turn.now() + later, limit))
            return [self._shown(row) for row in rows if not _stays(found, row[0], row[5], row[6])]
        if state == "dead":
            return [self._shown(row[:10], row[10:]) for row in turn.db.execute(_DEAD, (found.id, after, limit))]
        mine = [claim for claim in session.claims.values() if claim.queue is found][:limit]
        rows = [turn.db.execute(_RUNNING, (found.id, claim.rank, claim.id)).fetchone() for claim in mine]
        return [self._shown(row) for row in rows if row]

    def delete_delayed(self, queue: str, places: list[Number]) -> list[int]:
        """Delete those that are still delayed, and return which."""
        turn = self._turn
        found = turn.routes.queue(queue)
        rows = [row for place in places if (row := turn.db.execute(_ONE, (found.id, place)).fetchone())]
        gone = [row for row in rows if not _stays(found, row[1], row[3], row[4])]
        self._endings.remove(found, "delayed", gone, MOVED)
        return [row[1] for row in gone]

    def import_letters(self, queue: str, letters: list[Exported]) -> int:
        """Store dead letters of another engine, without those that are there, and say how many."""
        turn = self._turn
        found = turn.routes.queue(queue)
        turn.write()
        count = 0
        for one in letters:
            if one.letter is None:
                raise Rejected(f"{one.envelope.id} is no dead letter")
            reason, error, died_at, history = one.letter
            known = "select 1 from dead where queue = ? and message_id = ? and died_at = ?"
            if turn.db.execute(known, (found.id, one.envelope.id, died_at)).fetchone():
                continue
            turn.db.execute(
                INSERT_DEAD,
                (found.id, -one.priority, one.envelope.id, one.attempt, 0, one.key, reason, error, died_at, encode(history),
                 seal(encode(one.envelope)), 0),
            )  # fmt: skip
            count += 1
        found.dead += count
        turn.changed.add(found)
        return count

    def _shown(self, row: Any, letter: Any = None) -> Any:
        place, message_id, attempt, due, rank, flags, key, unique, until, stored = row
        left = None if due is None else 0.0 if due == NEVER else max(0.0, due - self._turn.now())
        for_ = None if until is None else max(0.0, until - self._turn.now())
        told = None if letter is None else (*letter[:3], Raw(letter[3] or msgspec.msgpack.encode([])))
        envelope = Raw(unseal_or_stand_in(stored, message_id))
        return (place, envelope, attempt, -rank, left, key, bool(flags & MERGES), unique, for_, bool(flags & TRACKED), told)


def _stays(queue: QueueState, place: int, flags: int, key: str | None) -> bool:
    """Tell whether a delayed message is carried only when it is ready: others may be merged into it, or wait behind it for its key."""
    return bool(flags & MERGES) or (key is not None and queue.line.held.get(key) == place)
