"""Lends what waits in the file to those who ask for it; whose turn it is, `chappe.engines.dispatch` says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Raw

from chappe.engines.dispatch import FAIR, SUSPECT, Row
from chappe.engines.file.budgets import Budgets
from chappe.engines.file.database import Database
from chappe.engines.file.queues import HAS_FILE, HOLDER, MERGES, RETURNED, Claim, QueueState, Session
from chappe.engines.file.seal import seal, stand_in, unseal
from chappe.engines.file.suspects import Suspects
from chappe.engines.file.tenants import named, tenant_of
from chappe.engines.file.turn import INSERT_FAIR, Turn
from chappe.engines.file.wire import LARGEST_FRAME, LENT_AT_ONCE
from chappe.errors import CorruptStorage
from chappe.messages.envelope import sent_at

_PROMOTED_AT_ONCE: Final = 1000
_LOOKED_AT_ONCE: Final = 10_000  # rows in one turn: a key with a long line behind it must not stop everybody
_NEAR: Final = 4  # numbers from one message to the next with which it is read, and messages that are worth it
_AROUND: Final = 64  # bytes of an answer for each message beside what is of any length

_ROW = "select id, rank, flags, key, message_id, attempt, note, envelope from ready where queue = ? and rank = ?"
_BEHIND = f"{_ROW} and id > ? order by id limit ?"
_NUMBERS_ALONE = "select id from ready where queue = ? and rank = ? and id > ? and flags & 128 = 0 order by id limit ?"
_NUMBERS = "select id from ready indexed by ready_by_tenant where queue = ? and rank = ? and id > ? and tenant = ? order by id limit ?"
_NEXT_TENANT = """select tenant, rank from ready indexed by ready_by_tenant
    where queue = ? and (tenant, rank) > (?, ?) and tenant is not null order by tenant, rank limit 1"""
_AT = f"{_ROW} and id = ?"
_BETWEEN = f"{_ROW} and id between ? and ? order by id"
_STAND_IN = "update ready set envelope = ? where queue = ? and rank = ? and id = ?"
_DUE = """select due, id, queue, rank, message_id, attempt, flags, key, note, envelope, budget
    from delayed where due <= ? order by due, id limit ?"""
_PENDING_READY = "update pending set id = ?, due = null where queue = ? and key = ? and id = ?"
_WAITS = "select id, message_id, since from ready where queue = ? and rank = ? order by id limit ?"
_NEXT_RANK = "select rank from ready where queue = ? and rank > ? order by rank limit 1"
_FIRST_OF_KEY = "select rank, id, tenant from ready indexed by ready_by_key where queue = ? and key = ? order by rank, id limit 1"
# By this index because SQLite would look at every row of the queue instead.
_SUSPECTS = "select rank, id, key from ready indexed by ready_suspects where queue = ? and flags & 64"


class Receiver:
    """A session that waits for deliveries."""

    __slots__ = ("limit", "queues", "reply", "session")

    def __init__(self, session: Session, queues: list[QueueState], limit: int, reply: Callable[[Any], None]) -> None:
        self.session = session
        self.queues = queues
        self.limit = limit
        self.reply = reply


class Reading:
    """What one answer reads of a queue: hardly more than there is room for, and a bounded part of it in a turn."""

    __slots__ = ("_db", "_queue", "looks", "room")

    def __init__(self, db: Database, queue: QueueState, room: int, looks: int) -> None:
        self._db = db
        self._queue = queue.id
        self.room = room  # bytes
        self.looks = looks  # rows that may still be read

    def at(self, rank: int, number: int) -> Row | None:
        """See `Waiting.at`."""
        row = self._db.execute(_AT, (self._queue, rank, number)).fetchone()
        if row is not None:
            self.room -= len(row[7]) + len(row[6] or "")
        return row

    def behind(self, rank: int, number: int, most: int) -> tuple[list[Row], bool]:
        """See `Waiting.behind`."""
        most = min(most, self.looks)
        rows = self._read(self._db.execute(_BEHIND, (self._queue, rank, number, most)))
        return rows, len(rows) < most and self.room > 0

    def numbers(self, rank: int, tenant: str | None, number: int, most: int) -> list[int]:
        """See `Waiting.numbers`."""
        if tenant is None:
            found = self._db.execute(_NUMBERS_ALONE, (self._queue, rank, number, most))
        else:
            found = self._db.execute(_NUMBERS, (self._queue, rank, number, tenant, most))
        return [number for (number,) in found]

    def those(self, rank: int, numbers: Sequence[int]) -> list[Row]:
        """See `Waiting.those`."""
        numbers = numbers[: self.looks]
        room = self.room
        found = self._neighbours(rank, numbers)
        if found is None or self.is_over:
            self.room = room
            return self._read(self._db.executemany(_AT, [(self._queue, rank, number) for number in numbers]))
        return [found[number] for number in numbers if number in found]

    def _neighbours(self, rank: int, numbers: Sequence[int]) -> dict[int, Row] | None:
        """Return messages by their numbers, where most of them are neighbours: then a row costs half as much."""
        runs: list[list[int]] = []
        for number in sorted(numbers):
            if runs and number - runs[-1][-1] <= _NEAR:
                runs[-1].append(number)
            else:
                runs.append([number])
        if len(numbers) < _NEAR * len(runs):
            return None
        found: dict[int, Row] = {}
        for run in runs:
            rows = self._read(self._db.execute(_BETWEEN, (self._queue, rank, run[0], run[-1])))
            found |= {row[0]: row for row in rows}
        return found

    def _read(self, found: Iterable[Any]) -> list[Row]:
        rows: list[Row] = []
        room = self.room
        for row in found:
            rows.append(row)
            room -= len(row[7])
            if room <= 0:
                break
        self.room = room
        self.looks -= len(rows)
        return rows

    @property
    def is_over(self) -> bool:
        """See `Waiting.is_over`."""
        return self.room <= 0 or self.looks <= 0


class Dispatch:
    """Who waits for messages, and which are lent to them."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.receivers: list[Receiver] = []
        self.served: list[tuple[Receiver, list[Any]]] = []
        self.held_back = False
        self.unfinished = False  # whether `serve` stopped before it had looked at all there is
        self.spoilt: list[tuple[Claim, str, str]] = []  # what was lent to nobody because nobody can have it, and why
        self.suspects = Suspects(turn.now)
        self.budgets = Budgets(turn)
        self._looks = 0
        self.restart()

    def restart(self) -> None:
        """Begin at the front of every queue, and serve again those who were served by a turn that was undone."""
        self.receivers[:0] = [receiver for receiver, _ in self.served]
        self.served.clear()
        self.spoilt.clear()
        self.budgets.restart()
        for queue in self._turn.routes.queues.values():
            self._line_up(queue)

    def leave(self, receiver: Receiver) -> bool:
        """Lend nothing more to one who waited, and tell whether it still did."""
        waited = receiver in self.receivers
        if waited:
            self.receivers.remove(receiver)
        return waited

    def serve(self) -> None:
        """Lend what is ready to those who wait; each names its queues in the order of their turn."""
        self.unfinished = False
        if self.held_back:
            return
        suspects = self.suspects
        self._looks = _LOOKED_AT_ONCE
        if suspects.wait:
            suspects.drain([(receiver.session, receiver.queues) for receiver in self.receivers])
        for receiver in list(self.receivers):
            if receiver.session.runs_suspect:
                continue
            lent = self._lend_suspect(receiver) if suspects.wait else []
            if not lent and not suspects.keeps_free(receiver.session):
                lent = self._lend(receiver)
            if lent:
                self.receivers.remove(receiver)
                self.served.append((receiver, lent))

    def _lend(self, receiver: Receiver) -> list[Any]:
        """Lend as much as there is room for in an answer; at least one message, whatever its size."""
        lent: list[Any] = []
        room = LENT_AT_ONCE
        for queue in receiver.queues:
            if self.unfinished or queue.paused or not queue.line.servable:
                continue
            reading = Reading(self._turn.db, queue, room, self._looks)
            rows = queue.line.take(receiver.limit - len(lent), reading, self._turn.claims)
            self._looks = reading.looks
            room = self._hold_all(queue, rows, queue.line.whose, receiver.session, lent, room)
            self.unfinished = self._looks <= 0 or (reading.is_over and not lent)
            if reading.is_over or len(lent) >= receiver.limit:
                break
        return lent

    def _lend_suspect(self, receiver: Receiver) -> list[Any]:
        """Lend one suspect to a session that may run it."""
        lent: list[Any] = []
        for queue in receiver.queues:
            if queue.line.suspects and not queue.paused and self.suspects.may_take(receiver.session, queue):
                row: Any = queue.line.take_suspect(Reading(self._turn.db, queue, 0, 0), self._turn.claims)
                self.suspects.taken(queue)
                if row is not None:
                    whose = {row[0]: named(row[7])} if row[2] & FAIR else {}
                    self._hold_all(queue, [row], whose, receiver.session, lent, LENT_AT_ONCE)
                    break
        return lent

    def _hold_all(
        self, queue: QueueState, rows: Sequence[Row], whose: Mapping[int, str], session: Session, lent: list[Any], room: int
    ) -> int:
        """Lend messages as far as there is room for them in the answer, and return what is left of it."""
        around = 4 * len(queue.name) + _AROUND
        claims: list[Claim] = []
        now = self._turn.now()
        for at, row in enumerate(rows):
            number, rank, flags, key, message_id, attempt, note, stored = row
            size = len(stored) + around + (0 if note is None else len(note.encode()))
            size = max(size, LENT_AT_ONCE) if flags & HAS_FILE else size
            if size > room and lent:
                for number, rank, *_ in rows[at:]:
                    queue.line.lane(rank, whose.get(number), number).give_back(number)
                room = 0
                break
            if flags & MERGES:
                flags |= self._begin_merged(queue, key, number)
            tenant = whose.get(number)
            claim = Claim(session, queue, rank, number, message_id, attempt, flags, key, tenant, 0.0 if tenant is None else now)
            claims.append(claim)
            try:
                envelope = unseal(stored)
            except CorruptStorage as error:
                self._turn.write()
                self._turn.db.execute(_STAND_IN, (seal(stand_in(stored, message_id)), queue.id, rank, number))
                self.spoilt.append((claim, "damaged", str(error)))
                continue
            if size > LARGEST_FRAME - _AROUND:
                self.spoilt.append((claim, "too_large", f"it has {size} bytes with its note, more than can be sent"))
                continue
            room -= size
            lent.append((number, queue.name, attempt + 1, Raw(envelope), note))
        self._turn.hold(claims)
        return room

    def _begin_merged(self, queue: QueueState, key: str | None, number: int) -> int:
        """Have nothing be merged any more into a message that is lent; return the flag of one that was lent before."""
        self._turn.write()
        self._turn.db.execute("delete from pending where queue = ? and key = ? and id = ?", (queue.id, key, number))
        return 0 if self._turn.db.changes() else RETURNED

    def adopt(self, session: Session, held: Iterable[tuple[str, int]]) -> list[int]:
        """Lend messages again to the client that held them before the engine was restarted; return those it may keep."""
        queues = self._turn.routes.queues
        return [tag for name, tag in held if name in queues and self.hold(session, queues[name], tag) is not None]

    def hold(self, session: Session, queue: QueueState, tag: int) -> Claim | None:
        """Lend one message out of its turn, if it is there and nobody has it."""
        if tag in self._turn.claims:
            return None
        for rank in queue.line.order:
            row = self._turn.db.execute(_AT, (queue.id, rank, tag)).fetchone()
            if row is not None:
                _, _, flags, key, message_id, attempt, _, stored = row
                if flags & MERGES:
                    flags |= self._begin_merged(queue, key, tag)
                if key is not None:
                    queue.line.held[key] = tag
                tenant = None if queue.line.shares is None else named(stored)
                claim = Claim(session, queue, rank, tag, message_id, attempt, flags, key, tenant, self._turn.now())
                self._turn.hold([claim])
                return claim
        return None

    # --- what comes back

    def give_back(self, claim: Claim, flags: int) -> None:
        """Have a message be served again at its old place, when it is lent no more."""
        self._serve_again(claim.queue, claim.rank, claim.id, flags, claim.tenant)

    def _serve_again(self, queue: QueueState, rank: int, number: int, flags: int, tenant: str | None) -> None:
        place = queue.line.lane(rank, tenant, number)
        if flags & SUSPECT:
            self.suspects.add(queue, rank, number)
        else:
            place.give_back(number)

    def release(self, queue: QueueState, key: str) -> None:
        """Have a key go to the next message that waits for it."""
        if queue.line.free(key):
            queue.line.hand_on(key, self._turn.db.execute(_FIRST_OF_KEY, (queue.id, key)).fetchone())

    def promote(self) -> None:
        """Make ready what is due, and what waited for a budget that has room."""
        turn, now = self._turn, self._turn.now()
        if now < turn.next_due:
            return
        rows = self.budgets.open(now) + turn.db.execute(_DUE, (now, _PROMOTED_AT_ONCE)).fetchall()
        if rows:
            turn.write()
        for due, number, queue_id, rank, message_id, attempt, known, key, note, envelope, budget in rows:
            queue = turn.routes.by_id[queue_id]
            turn.db.execute("delete from delayed where due = ? and id = ?", (due, number))
            flags, tenant = tenant_of(queue, known, envelope, turn.weights)
            keeps_place = flags & HOLDER or budget is not None
            new = number if keeps_place else turn.next_id()
            since = None if budget is not None else due
            turn.db.execute(INSERT_FAIR, (queue_id, rank, new, message_id, attempt, flags, key, note, envelope, since, tenant))
            if flags & MERGES:
                turn.db.execute(_PENDING_READY, (new, queue_id, key, number))
            if keeps_place or flags & SUSPECT:
                self._serve_again(queue, rank, new, flags, tenant)
            else:
                queue.arrive(rank, tenant, new)
            queue.rows += 1
            queue.delayed -= 1
            turn.changed.add(queue)
        turn.next_due = min(turn.first_due(), self.budgets.next)

    def oldest(self, queue: QueueState) -> float | None:
        """Return since when the message waits that is the next of its priority, the longest of all priorities; nothing where none does."""
        found: list[float] = []
        for rank in queue.line.order:
            for identity, message_id, due in self._turn.db.execute(_WAITS, (queue.id, rank, queue.running + 1)).fetchall():
                if identity not in self._turn.claims:
                    found += [at for at in (due or sent_at(message_id),) if at is not None]
                    break
        return min(found, default=None)

    def refresh(self, queue: QueueState) -> None:
        """Begin at the front of a queue, after rows were deleted or inserted in bulk; its counters are stored with this turn."""
        self._turn.changed.add(queue)
        self._line_up(queue)

    def _line_up(self, queue: QueueState) -> None:
        db, claims = self._turn.db, self._turn.claims
        waiting = [row for row in db.execute(_SUSPECTS, (queue.id,)) if row[1] not in claims]
        held = {key: number for _, number, key in waiting if key is not None}
        held |= dict(db.execute("select key, id from delayed where queue = ? and flags & ?", (queue.id, HOLDER)).fetchall())
        held |= {c.key: c.id for c in claims.values() if c.queue is queue and c.key is not None}
        queue.line.restart(held, [(rank, number) for rank, number, _ in waiting], self._ranks(queue))
        place: tuple[str, int] | None = ("", -(2**63))
        while (place := db.execute(_NEXT_TENANT, (queue.id, *place)).fetchone()) is not None:
            queue.shares(self._turn.weights)
            queue.line.lane(place[1], place[0], 0).exhausted = False
        self.suspects.load(queue)

    def _ranks(self, queue: QueueState) -> Iterator[int]:
        """Find the priorities of a queue by one look-up for each, whatever the number of messages."""
        rank = -(2**62)
        while (row := self._turn.db.execute(_NEXT_RANK, (queue.id, rank)).fetchone()) is not None:
            yield (rank := int(row[0]))
