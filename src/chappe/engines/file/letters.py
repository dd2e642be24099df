"""Dead letters: listed, shown, edited, retried and discarded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from chappe.bounds import Number
from chappe.engines.file.queues import MERGES
from chappe.engines.file.seal import seal, unseal, unseal_or_stand_in
from chappe.engines.file.tenants import tenant_of
from chappe.engines.file.turn import INSERT_FAIR, Turn
from chappe.errors import NotFound, Rejected
from chappe.messages.envelope import Envelope

_COLUMNS = "number, queue, reason, error, attempts, died_at, history, deaths, message_id, envelope"
_decode = msgspec.msgpack.Decoder(Envelope).decode


def listing(queue: int | None, after: int, limit: int) -> tuple[str, tuple[int, ...]]:
    """Return a statement for letters by number, of one queue or of all, and its bindings; an index leads to the first of them."""
    most, where = max(0, min(limit, 1000)), "number > ?" if queue is None else "queue = ? and number > ?"
    bindings = (after, most) if queue is None else (queue, after, most)
    return f"select {_COLUMNS} from dead where {where} order by number limit ?", bindings  # noqa: S608 - constant columns


_WAITING = "select id, queue, attempt, message_id, envelope from {} where flags & 4 and id > ?1"  # HISTORY
_FAILING = f"""select w.id, w.queue, '', f.error, w.attempt, f.at, x'90', 0, w.message_id, w.envelope
    from ({_WAITING.format("delayed")} union all {_WAITING.format("ready")} order by id limit ?2) w
    join failure f on f.message_id = w.queue || '/' || w.message_id
    where f.rowid = (select max(l.rowid) from failure l where l.message_id = f.message_id) order by w.id"""  # noqa: S608 - constant


class Letters:
    """The dead letters of one file."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def letters(self, queue: str | None, after: Number, limit: Number) -> list[Any]:
        """Return up to `limit` letters with a larger number, of one queue or of all."""
        identity = None if queue is None else self._turn.routes.queue(queue).id
        return [self._shown(row) for row in self._turn.db.execute(*listing(identity, after, limit))]

    def failing(self, after: Number, limit: Number) -> tuple[list[Any], Number | None]:
        """Return messages that failed and wait, but for those that run again, and the number behind which to go on."""
        rows = self._turn.db.execute(_FAILING, (after, most := max(1, min(limit, 1000)))).fetchall()
        return [self._shown(row) for row in rows if row[0] not in self._turn.claims], rows[-1][0] if len(rows) == most else None

    def letter(self, number: Number) -> Any:
        """Return one letter, or raise `NotFound`."""
        row = self._turn.db.execute(f"select {_COLUMNS} from dead where number = ?", (number,)).fetchone()  # noqa: S608 - constant columns
        if row is None:
            raise NotFound.letter(number)
        return self._shown(row)

    def retry_letters(self, numbers: list[Number]) -> int:
        """Make letters ready again as new messages of their queues, and say how many there were.

        Raises `Rejected`, and retries none, if another message has the unique key of one of them.
        """
        turn = self._turn
        self._refuse_taken(numbers)
        turn.write()
        count = 0
        for number in numbers:
            row = turn.db.execute(
                "delete from dead where number = ? returning queue, rank, message_id, flags, key, envelope, unique_name", (number,)
            ).fetchone()
            if row is None:
                continue
            queue_id, rank, message_id, flags, key, envelope, unique = row
            queue = turn.routes.by_id[queue_id]
            flags, tenant = tenant_of(queue, int(flags) & ~MERGES, envelope, turn.weights)
            identity = turn.next_id()
            turn.db.execute(INSERT_FAIR, (queue_id, rank, identity, message_id, 0, flags, key, None, envelope, None, tenant))
            if unique is not None:
                turn.db.execute("insert into unique_key values (?, ?, null)", (unique, message_id))
            turn.db.execute("delete from failure where message_id = ?", (f"{queue_id}/{message_id}",))
            turn.db.execute(
                "update tracked set state = 'ready', error = null where message_id = ? or into_id = ?", (message_id, message_id)
            )
            queue.dead -= 1
            queue.arrived(int(rank), 1, tenant, identity)
            turn.changed.add(queue)
            count += 1
        return count

    def _refuse_taken(self, numbers: Sequence[int]) -> None:
        taken: dict[str, str] = {}
        for number in dict.fromkeys(numbers):
            row = self._turn.db.execute("select unique_name, message_id from dead where number = ?", (number,)).fetchone()
            if row is None or row[0] is None:
                continue
            name, message_id = row
            found = self._turn.db.execute("select message_id from unique_key where name = ?", (name,)).fetchone()
            other = taken.setdefault(name, message_id if found is None else str(found[0]))
            if found is not None or other != message_id:
                raise Rejected(
                    f'dead letter {number} cannot be retried beside message {other}, which has the same unique key "{name}"; '
                    "retry it when that one has ended, or discard it"
                )

    def edit_letter(self, number: Number, body: bytes) -> None:
        """Replace the body of a letter, or raise `NotFound`, or `CorruptStorage` if the disk changed it."""
        turn = self._turn
        row = turn.db.execute("select envelope from dead where number = ?", (number,)).fetchone()
        if row is None:
            raise NotFound.letter(number)
        changed = msgspec.structs.replace(_decode(unseal(row[0])), body=body)
        turn.write()
        turn.db.execute("update dead set envelope = ? where number = ?", (seal(msgspec.msgpack.encode(changed)), number))

    def discard_letters(self, numbers: list[Number]) -> int:
        """Delete letters for good, and say how many there were."""
        turn = self._turn
        turn.write()
        count = 0
        for number in numbers:
            row = turn.db.execute("delete from dead where number = ? returning queue, message_id", (number,)).fetchone()
            if row is not None:
                queue_id, message_id = row
                queue = turn.routes.by_id[queue_id]
                turn.db.execute("delete from mark where message_id = ?", (message_id,))
                turn.db.execute("delete from failure where message_id = ?", (f"{queue_id}/{message_id}",))
                queue.dead -= 1
                turn.changed.add(queue)
                count += 1
        return count

    def _shown(self, row: Any) -> Any:
        number, queue, reason, error, attempts, died_at, history, deaths, message_id, stored = row
        envelope = unseal_or_stand_in(stored, message_id)
        return (number, self._turn.routes.by_id[queue].name, reason, error, attempts, died_at, Raw(envelope), Raw(history), deaths)
