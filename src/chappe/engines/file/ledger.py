"""The engine's transaction: what arrived in one turn is stored together, then lent to whoever waits.

The ledger is synchronous, does no I/O but SQLite's, and reads no clock by itself. Its verbs are those of
`verbs.py`; this file has the turn around them and the life of a message.
"""

from __future__ import annotations

import collections
import heapq
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
from msgspec import Raw

from chappe.bounds import DEATHS_ALLOWED
from chappe.engines.file.database import LOCK_WAIT, open_database
from chappe.engines.file.log import CHECKPOINT, Log
from chappe.engines.file.queues import HISTORY, HOLDER, MERGES, RETURNED, SUSPECT, TRACKED, UNIQUE, Claim, QueueState, Session
from chappe.engines.file.routes import Routes
from chappe.engines.file.running_tables import KILL_AFTER, Account
from chappe.engines.file.seal import seal, stand_in, unseal
from chappe.engines.file.suspects import Suspects
from chappe.engines.file.wire import LARGEST_FRAME, LENT_AT_ONCE
from chappe.errors import CorruptStorage, StorageFull
from chappe.failures import why_dead
from chappe.messages.codec import encode_json

_IDS_AT_ONCE: Final = 1_000_000
_PROMOTED_AT_ONCE: Final = 1000
_LOOKED_AT_ONCE: Final = 10_000  # rows in one turn: a key with a long line behind it must not stop everybody
_AROUND: Final = 64  # bytes of an answer for each message beside what is of any length
_PASSING: Final = HISTORY | HOLDER | RETURNED | SUSPECT  # what a dead letter does not keep

_TAKE = "select id, message_id, attempt, flags, key, note, envelope from ready where queue = ? and rank = ? and id > ? order by id limit ?"
_TAKE_ONE = "select id, message_id, attempt, flags, key, note, envelope from ready where queue = ? and rank = ? and id = ?"
INSERT = "insert into ready (queue, rank, id, message_id, attempt, flags, key, note, envelope) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
DELAY = "insert into delayed (due, id, queue, rank, message_id, attempt, flags, key, note, envelope) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_DEAD = """insert into dead (queue, rank, message_id, attempts, flags, key, reason, error, died_at, history, envelope, deaths)
    values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_DUE = """select due, id, queue, rank, message_id, attempt, flags, key, note, envelope
    from delayed where due <= ? order by due, id limit ?"""
# By this index because SQLite would look at every row of the queue instead.
_SUSPECTS = "select rank, id, key from ready indexed by ready_suspects where queue = ? and flags & 64"
_TALLY = "insert or replace into tally values (?, ?)"
_KEEP_UNIQUE = """update dead set unique_name = (select name from unique_key where message_id = ? and until is null)
    where number = ?"""
_DELETE = "delete from ready where queue = ? and rank = ? and id = ?"

_serials = msgspec.json.Decoder(tuple[int, list[int], float]).decode

Row = tuple[int, str, int, int, str | None, str | None, bytes]


class Receiver:
    """A session that waits for deliveries."""

    __slots__ = ("limit", "queues", "reply", "room", "session")

    def __init__(self, session: Session, queues: list[QueueState], limit: int, reply: Callable[[Any], None]) -> None:
        self.session = session
        self.queues = queues
        self.limit = limit
        self.room = LENT_AT_ONCE  # bytes; at least one message is lent whatever its size
        self.reply = reply


class Ledger:
    """The messages of one file."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """Open the file; the caller holds its `Ownership`. Raises the errors of `open_database`."""
        self.path = path
        self.now = now
        self.full = False  # whether the disk is, so that nothing new is stored
        self.claims: dict[int, Claim] = {}
        self.receivers: list[Receiver] = []
        self.served: list[tuple[Receiver, list[Any]]] = []
        self.waiters: dict[str, list[Callable[[Any], None]]] = collections.defaultdict(list)
        self.finished: list[str] = []
        self.writing = False
        self.held_back = False
        self.suspects = Suspects(now)
        self.unfinished = False  # whether `serve` stopped before it had looked at all there is
        self._looked = 0
        self._moves: list[tuple[bool, Claim]] = []  # what was lent (true) and ended (false) in this turn, in order
        self._dirty: set[QueueState] = set()
        self._log_pages = 0
        self.db = open_database(path)
        try:
            self._begin()
        except (apsw.CorruptError, apsw.NotADBError) as error:
            self.db.close()
            raise CorruptStorage(f"{path} is damaged ({error}); it was left as it is: see chappe recover") from None

    def _begin(self) -> None:
        self.routes = Routes(self.db)
        self._next = self._reserved = int(self._meta("next_id"))
        self.was_held = int(self._meta("held")) != 0
        self._set_meta("held", -1)
        self.next_due = self._first_due()
        self._log = Log(self.path, int(self.db.pragma("page_size")))
        self.db.set_wal_hook(self._logged)
        self._load()

    # --- the turn

    def write(self) -> None:
        """Begin the turn's transaction if it has not begun."""
        if not self.writing:
            self.db.execute("begin immediate")
            self.writing = True

    def commit(self) -> None:
        """Make the turn durable; raises `StorageFull`, after which the caller must `undo`."""
        try:
            if self.writing:
                self._save_counters()
                self.db.execute("commit")
        except apsw.FullError:
            raise self.out_of_space() from None
        self.writing = False
        self._moves.clear()
        self._dirty.clear()

    def out_of_space(self) -> StorageFull:
        """Return the refusal of what needs room on a full disk."""
        return StorageFull(f"no room to store more in {self.path.parent}; free some space, nothing was lost and what is stored goes on")

    def require_space(self) -> None:
        """Raise `StorageFull` while the disk is: what room is left is for settling."""
        if self.full:
            raise self.out_of_space()

    def _logged(self, _: Any, __: str, pages: int) -> int:
        self._log_pages = pages
        return 0

    def checkpoint_if_long(self) -> None:
        """Write a long log back into the file, between two turns.

        Raises `apsw.FullError` and `apsw.BusyError`, after which it may be tried again, and `apsw.IOError`: an error of the disk is not.

        SQLite's own checkpoint in a commit would ignore it, and the next one might believe a disk that had lost the pages.
        """
        if self._log_pages > CHECKPOINT:
            self.write_back()
        self._log.reach(self._log_pages)

    def write_back(self) -> None:
        """Write the log back into the file, as far as no reader is in the way; raises as `checkpoint_if_long` does."""
        self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._log_pages = 0

    def log_size(self) -> int:
        """Return the bytes that the log takes on the disk."""
        return self._log.size()

    def give_back_log(self) -> None:
        """Write the log back into the file and free its bytes; raises as `checkpoint_if_long` does."""
        self.db.set_busy_timeout(0)  # for somebody who reads, nobody else waits
        try:
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self.db.set_busy_timeout(LOCK_WAIT)
        self._log_pages = 0
        self._log.restart()

    def take_room(self, size: int) -> None:
        """Make so many bytes that became free on a full disk room in the log, before somebody else has them."""
        self._log.grow(size)

    def undo(self) -> None:
        """Take back everything since the last commit, in the file and in memory."""
        if self.writing and not self.db.get_autocommit():
            self.db.execute("rollback")
        self.writing = False
        for lent, claim in reversed(self._moves):
            if lent:
                del self.claims[claim.id], claim.session.claims[claim.id]
                claim.queue.running -= 1
            else:
                self.claims[claim.id] = claim.session.claims[claim.id] = claim
                claim.queue.running += 1
        self._moves.clear()
        self._dirty.clear()
        self.finished.clear()
        self.receivers[:0] = [receiver for receiver, _ in self.served]
        self.served.clear()
        self._reload()

    def close(self, *, momentary: bool = False) -> None:
        """Close the file, remembering whether anything was lent; a momentary owner leaves that as it found it."""
        if self.writing:
            self.undo()
        self._set_meta("held", int(self.was_held) if momentary else len(self.claims))
        self.db.close()

    # --- lending

    def serve(self) -> None:
        """Lend what is ready to those who wait; each names its queues in the order of their turn."""
        self.unfinished = False
        self._looked = 0
        if self.held_back:
            return
        suspects = self.suspects
        if suspects.wait:
            suspects.drain([(receiver.session, receiver.queues) for receiver in self.receivers])
        for receiver in list(self.receivers):
            session = receiver.session
            if session.runs_suspect:
                continue
            receiver.room = LENT_AT_ONCE  # what it got in a turn that was undone does not count
            lent = list[Any]()
            if suspects.wait:
                self._lend_suspect(receiver, lent)
            for queue in () if lent or suspects.keeps_free(session) else receiver.queues:
                if queue.servable and len(lent) < receiver.limit and not self.unfinished:
                    self._lend(queue, receiver, lent)
            if lent:
                self.receivers.remove(receiver)
                self.served.append((receiver, lent))

    def _lend_suspect(self, receiver: Receiver, lent: list[Any]) -> None:
        """Lend one suspect to a session that may run it."""
        for queue in receiver.queues:
            if not queue.suspects or not self.suspects.may_take(receiver.session, queue):
                continue
            later: list[tuple[int, int]] = []
            while not lent and (place := self.suspects.take(queue)) is not None:
                rank, identity = place
                row = self.db.execute(_TAKE_ONE, (queue.id, rank, identity)).fetchone()
                if row is None or identity in self.claims or not row[3] & SUSPECT:
                    continue  # it was purged, or is running, and comes back by itself
                if row[4] is not None and queue.held.get(row[4], identity) != identity:
                    later.append(place)
                else:
                    self._claim(queue, rank, receiver, row, lent)
            for place in later:
                self.suspects.add(queue, *place)
            self.suspects.taken(queue)
            if lent:
                return

    def _lend(self, queue: QueueState, receiver: Receiver, lent: list[Any]) -> None:
        limit = receiver.limit
        for number in queue.order:
            rank = queue.ranks[number]
            while rank.returned and len(lent) < limit and receiver.room > 0:
                identity = heapq.heappop(rank.returned)
                row = self.db.execute(_TAKE_ONE, (queue.id, number, identity)).fetchone()
                if row is None or identity in self.claims or row[3] & SUSPECT or self._claim(queue, number, receiver, row, lent):
                    continue
                rank.give_back(identity)
            while not rank.exhausted and len(lent) < limit and receiver.room > 0:
                rows, rank.exhausted = self._read(queue, number, limit - len(lent), receiver.room)
                self._looked += len(rows)
                for row in rows:
                    if row[0] in self.claims or row[3] & SUSPECT:
                        rank.cursor = row[0]
                        continue
                    key = row[4]
                    if key is not None and key in queue.held:
                        rank.cursor = row[0]
                        if queue.held[key] != row[0]:
                            queue.blocked.add(key)
                        continue
                    if receiver.room <= 0 or not self._claim(queue, number, receiver, row, lent):
                        rank.exhausted = False  # the rest of what was read is served next time
                        break
                    rank.cursor = row[0]
                if self._looked > _LOOKED_AT_ONCE:
                    self.unfinished = True
                    return
            if len(lent) >= limit:
                return

    def _read(self, queue: QueueState, rank: int, most: int, room: int) -> tuple[list[Row], bool]:
        """Return what comes next in a priority, hardly more than there is room for, and whether that is all there is."""
        rows: list[Row] = []
        for row in self.db.execute(_TAKE, (queue.id, rank, queue.ranks[rank].cursor, most)):
            rows.append(row)
            room -= len(row[6])
            if room <= 0:
                return rows, False
        return rows, len(rows) < most

    def _claim(self, queue: QueueState, rank: int, receiver: Receiver, row: Row, lent: list[Any]) -> bool:
        """Lend a message if there is room for it in the answer, and say so; else there is none for what is behind it."""
        identity, _, attempt, _, _, note, stored = row
        size = len(stored) + 4 * len(queue.name) + _AROUND
        if note is not None:
            size += len(note.encode())
        if size > receiver.room and lent:
            receiver.room = 0
            return False
        claim = self._hold(queue, rank, receiver.session, row)
        if size > LARGEST_FRAME - _AROUND:
            self.dead_letter(claim, "too_large", f"it has {size} bytes with its note, more than can be sent", attempt=claim.attempt)
            return True
        try:
            envelope = unseal(stored)
        except CorruptStorage as error:
            self._dead_letter_damaged(claim, stored, str(error))
            return True
        receiver.room -= size
        lent.append((identity, queue.name, attempt + 1, Raw(envelope), note))
        return True

    def _hold(self, queue: QueueState, rank: int, session: Session, row: Row) -> Claim:
        identity, message_id, attempt, flags, key, _, _ = row
        if flags & MERGES:
            self.write()
            self.db.execute("delete from pending where queue = ? and key = ? and id = ?", (queue.id, key, identity))
            if not self.db.changes():  # it is not pending because it was lent before
                flags |= RETURNED
        claim = Claim(session, queue, rank, identity, message_id, attempt, flags, key)
        self.claims[identity] = session.claims[identity] = claim
        self._moves.append((True, claim))
        queue.running += 1
        if key is not None:
            queue.held[key] = identity
        return claim

    def _dead_letter_damaged(self, claim: Claim, stored: bytes, error: str) -> None:
        self.write()
        self.db.execute(
            "update ready set envelope = ? where queue = ? and rank = ? and id = ?",
            (seal(stand_in(stored, claim.message_id)), claim.queue.id, claim.rank, claim.id),
        )
        self.dead_letter(claim, "damaged", error, attempt=claim.attempt)

    # --- ending

    def claim_of(self, session: Session, tag: int) -> Claim | None:
        """Return what this session holds under a tag, or nothing if it was lost."""
        claim = self.claims.get(tag)
        return claim if claim is not None and claim.session is session else None

    def ack(self, claims: Sequence[tuple[Claim, bytes | None, bool, str | None]]) -> None:
        """End claims as done, each with its result, whether handlers left marks, and why there is no result."""
        self.write()
        self.db.executemany(_DELETE, [(c.queue.id, c.rank, c.id) for c, *_ in claims])
        for claim, result, marked, error in claims:
            queue = claim.queue
            self._drop(claim)
            queue.rows -= 1
            queue.done += 1
            self._dirty.add(queue)
            if claim.flags:
                self._forget(claim)
                if claim.flags & TRACKED:
                    self.end_tracked(claim.message_id, "done", result, error)
            if marked:
                self.db.execute("delete from mark where message_id = ?", (claim.message_id,))
            if claim.key is not None:
                self._release_key(queue, claim.key)

    def retry(self, claim: Claim, after: float, *, counted: bool, error: str | None, note: str | None, suspect: bool = False) -> None:
        """Make a claim ready again, at once at its old place or later, and no suspect any more unless it is said."""
        queue = claim.queue
        if not counted and after <= 0 and note is None and error is None:
            self._return(claim, untouched=True)
            return
        self.write()
        attempt = claim.attempt + (1 if counted else 0)
        flags = claim.flags & ~(RETURNED | SUSPECT) | (SUSPECT if suspect else 0)
        if counted:
            queue.retried += 1
        if error is not None:
            flags |= HISTORY
            self.db.execute("insert into failure values (?, ?, ?, ?)", (self._scope(claim), self.now(), claim.attempt + 1, error))
        place = (queue.id, claim.rank, claim.id)
        if after <= 0:
            self.db.execute(
                "update ready set attempt = ?, flags = ?, note = ? where queue = ? and rank = ? and id = ?", (attempt, flags, note, *place)
            )
            self._drop(claim)
            self._give_back(queue, claim.rank, claim.id, flags)
        else:
            (envelope,) = self.db.execute(f"{_DELETE} returning envelope", place).fetchone()
            due = self.now() + after
            if claim.key is not None:
                flags |= HOLDER
            self.db.execute(DELAY, (due, claim.id, queue.id, claim.rank, claim.message_id, attempt, flags, claim.key, note, envelope))
            self._drop(claim)
            queue.rows -= 1
            queue.delayed += 1
            self.due_at(due)
        self._dirty.add(queue)

    def dead_letter(self, claim: Claim, reason: str, error: str | None, *, attempt: int | None = None) -> None:
        """Make a claim a dead letter with its history; in a temporary queue it is gone."""
        self.write()
        queue = claim.queue
        (envelope,) = self.db.execute(f"{_DELETE} returning envelope", (queue.id, claim.rank, claim.id)).fetchone()
        scope = self._scope(claim)
        if not queue.owner:
            spent = claim.attempt + 1 if attempt is None else attempt
            history = [
                tuple(row)
                for row in self.db.execute("select at, attempt, error from failure where message_id = ? order by rowid", (scope,))
            ]
            died = self.db.execute("select count from death where message_id = ?", (scope,)).fetchone()
            self.db.execute(
                INSERT_DEAD,
                (queue.id, claim.rank, claim.message_id, spent, claim.flags & ~_PASSING, claim.key, reason, error, self.now(),
                 msgspec.msgpack.encode(history), envelope, died[0] if died else 0),
            )  # fmt: skip
            if claim.flags & UNIQUE:
                self.db.execute(_KEEP_UNIQUE, (claim.message_id, self.db.last_insert_rowid()))
            queue.dead += 1
        self.db.execute("delete from death where message_id = ?", (scope,))
        self._forget(claim)
        if claim.flags & TRACKED:
            self.end_tracked(claim.message_id, "dead", None, why_dead(reason, error))
        self._drop(claim)
        queue.rows -= 1
        queue.died += 1
        self._dirty.add(queue)
        if claim.key is not None:
            self._release_key(queue, claim.key)

    def give_back(self, session: Session, account: Account | None, who: str = "its worker") -> None:
        """Take everything from a session that ended; `account` is what the table of a worker says of it."""
        for tag, claim in list(session.claims.items()):
            if account is None or tag not in account.suspects:
                self._return(claim, untouched=False)
            else:
                self._blame(claim, account, f"{who} died while it ran this")

    def blame(self, tag: int, account: Account) -> None:
        """Count a death for a message that was running when its worker and the engine died in the same moment."""
        for queue in self.routes.queues.values():
            for rank in queue.order:
                row = self.db.execute(_TAKE_ONE, (queue.id, rank, tag)).fetchone()
                if row is not None and tag not in self.claims:
                    self._blame(
                        self._hold(queue, rank, Session(), row), account, "its worker died while it ran this, and the engine with it"
                    )
                    return

    def _blame(self, claim: Claim, account: Account, error: str) -> None:
        """Count the death of its worker for a message, and have it run alone from now on; what ran out of its time has failed an attempt.

        Where nothing executed, it runs alone after its second death only: else a worker that is killed from outside would have all that
        waited in it run one by one.
        """
        self.write()
        blame = account.blame
        if blame is not None and blame.reason == KILL_AFTER:
            error = f"its worker was ended: it ran longer than its kill_after of {blame.limit:g} s"
            if blame.is_last:
                self.dead_letter(claim, "attempts spent", error)
            else:
                self.retry(claim, blame.after, counted=True, error=error, note=None, suspect=True)
            return
        if blame is not None:
            error = f"its worker was ended: it kept the event loop for {blame.limit:g} s"
        scope = self._scope(claim)
        self.db.execute("insert into death values (?, 1) on conflict do update set count = count + 1", (scope,))
        self.db.execute("insert into failure values (?, ?, ?, ?)", (scope, self.now(), claim.attempt + 1, error))
        (deaths,) = self.db.execute("select count from death where message_id = ?", (scope,)).fetchone()
        flags = claim.flags & ~RETURNED | HISTORY | (SUSPECT if account.is_sure or int(deaths) > 1 else 0)
        if int(deaths) >= DEATHS_ALLOWED:
            self.dead_letter(
                claim._replace(flags=flags), "worker_lost", f"{deaths} workers died while they ran this; the last time {error}"
            )
            return
        place = (claim.queue.id, claim.rank, claim.id)
        self.db.execute("update ready set flags = ? where queue = ? and rank = ? and id = ?", (flags, *place))
        self._drop(claim)
        self._give_back(claim.queue, claim.rank, claim.id, flags)

    def adopt(self, session: Session, held: Iterable[tuple[str, int]]) -> list[int]:
        """Lend messages again to the client that held them before the engine was restarted; return those it may keep."""
        kept: list[int] = []
        for name, tag in held:
            queue = self.routes.queues.get(name)
            if queue is None or tag in self.claims:
                continue
            for rank in queue.order:
                row = self.db.execute(_TAKE_ONE, (queue.id, rank, tag)).fetchone()
                if row is not None:
                    self._hold(queue, rank, session, row)
                    kept.append(tag)
                    break
        return kept

    # --- time

    def promote(self) -> None:
        """Make ready what is due."""
        now = self.now()
        if now < self.next_due:
            return
        rows = self.db.execute(
            _DUE,
            (now, _PROMOTED_AT_ONCE),
        ).fetchall()
        if rows:
            self.write()
        for due, identity, queue_id, rank, message_id, attempt, flags, key, note, envelope in rows:
            queue = self.routes.by_id[queue_id]
            self.db.execute("delete from delayed where due = ? and id = ?", (due, identity))
            holder = flags & HOLDER
            new = identity if holder else self.next_id()
            self.db.execute(INSERT, (queue_id, rank, new, message_id, attempt, flags, key, note, envelope))
            if flags & MERGES:
                self.db.execute(
                    "update pending set id = ?, due = null where queue = ? and key = ? and id = ?", (new, queue_id, key, identity)
                )
            if holder or flags & SUSPECT:
                self._give_back(queue, rank, new, flags)
            else:
                queue.rank(rank).exhausted = False
            queue.rows += 1
            queue.delayed -= 1
            self._dirty.add(queue)
        self.next_due = self._first_due()

    # --- what the verbs share

    def next_id(self) -> int:
        """Return a number that grows for ever, also over restarts."""
        if self._next >= self._reserved:
            self._reserved = self._next + _IDS_AT_ONCE
            self._set_meta("next_id", self._reserved)
        self._next += 1
        return self._next

    def end_tracked(self, message_id: str, state: str, result: bytes | None, error: str | None) -> None:
        """Store how a tracked message and all that were merged into it ended."""
        self.db.execute(
            "update tracked set state = ?, result = ?, error = ?, at = ? where message_id = ? or into_id = ?",
            (state, result, error, self.now(), message_id, message_id),
        )
        self.finished.append(message_id)
        self.finished += [str(row[0]) for row in self.db.execute("select message_id from tracked where into_id = ?", (message_id,))]

    def stored_of(self, client: str) -> tuple[int, list[int]]:
        """Return the last request of a client that was stored, and those refused in the same turn."""
        row = self.db.execute("select value from tally where name = ?", (f"client {client}",)).fetchone()
        return _serials(row[0])[:2] if row else (0, [])

    def remember_serial(self, client: str, serial: int, refused: list[int]) -> None:
        """Store the last request of a client that this turn stores, and those that it refused."""
        self.write()
        self.db.execute(_TALLY, (f"client {client}", encode_json((serial, refused, self.now()))))

    def forget_serials(self, before: float) -> None:
        """Forget clients that have stored nothing since."""
        rows = self.db.execute("select name, value from tally where name >= 'client ' and name < 'client!'").fetchall()
        self.db.executemany("delete from tally where name = ?", [(name,) for name, value in rows if _serials(value)[2] < before])

    def touch(self, queue: QueueState) -> None:
        """Store the counters of a queue with this turn."""
        self._dirty.add(queue)

    def refresh(self, queue: QueueState) -> None:
        """Look at a queue afresh after rows were deleted or inserted in bulk; its counters are stored with this turn."""
        self._dirty.add(queue)
        self._fresh(queue)

    def _return(self, claim: Claim, *, untouched: bool) -> None:
        """Put a message back to its old place; it is pending again only if nobody can have begun it.

        What may have run under its id must not become more under the same id: a handler that remembers ids would skip it.
        """
        self._drop(claim)
        self._give_back(claim.queue, claim.rank, claim.id, claim.flags)
        if untouched and claim.flags & MERGES and not claim.flags & RETURNED:
            self.write()
            self.db.execute(
                "insert or ignore into pending (queue, key, id, due, rank, version) values (?, ?, ?, null, ?, ?)",
                (claim.queue.id, claim.key, claim.id, claim.rank, self.next_id()),
            )

    def _give_back(self, queue: QueueState, rank: int, identity: int, flags: int) -> None:
        """Have a message at its old place be served again."""
        if flags & SUSPECT:
            queue.rank(rank)
            self.suspects.add(queue, rank, identity)
        else:
            queue.rank(rank).give_back(identity)

    def _drop(self, claim: Claim) -> None:
        del self.claims[claim.id]
        del claim.session.claims[claim.id]
        claim.queue.running -= 1
        self._moves.append((False, claim))

    def _scope(self, claim: Claim) -> str:
        return f"{claim.queue.id}/{claim.message_id}"

    def _release_key(self, queue: QueueState, key: str) -> None:
        queue.held.pop(key, None)
        if key in queue.blocked:
            row = self.db.execute(
                "select rank, id from ready indexed by ready_by_key where queue = ? and key = ? order by rank, id limit 1", (queue.id, key)
            ).fetchone()
            if row is None:
                queue.blocked.discard(key)
            elif int(row[1]) <= (rank := queue.rank(int(row[0]))).cursor:  # else it comes in its turn
                queue.held[key] = int(row[1])
                rank.give_back(int(row[1]))

    def _forget(self, claim: Claim) -> None:
        if claim.flags & HISTORY:
            scope = self._scope(claim)
            self.db.execute("delete from failure where message_id = ?", (scope,))
            self.db.execute("delete from death where message_id = ?", (scope,))
        if claim.flags & UNIQUE:
            self.db.execute("delete from unique_key where message_id = ? and until is null", (claim.message_id,))

    def _save_counters(self) -> None:
        there = [queue for queue in self._dirty if self.routes.by_id.get(queue.id) is queue]
        self.db.executemany(_TALLY, [(f"queue {q.id}", encode_json(q.counts)) for q in there])

    def _reload(self) -> None:
        self.routes.reload()
        self._next = max(self._next, int(self._meta("next_id")))
        self._reserved = self._next
        self._load()
        self.next_due = self._first_due()

    def _load(self) -> None:
        for queue in self.routes.queues.values():
            self._fresh(queue)

    def _fresh(self, queue: QueueState) -> None:
        queue.ranks.clear()
        queue.order.clear()
        queue.blocked.clear()
        queue.held = {c.key: c.id for c in self.claims.values() if c.queue is queue and c.key is not None}
        for key, identity in self.db.execute("select key, id from delayed where queue = ? and flags & ?", (queue.id, HOLDER)):
            queue.held[str(key)] = int(identity)
        waiting = [row for row in self.db.execute(_SUSPECTS, (queue.id,)) if row[1] not in self.claims]
        queue.held |= {key: identity for _, identity, key in waiting if key is not None and key not in queue.held}
        self.suspects.load(queue, [(int(rank), int(identity)) for rank, identity, _ in waiting])
        rank: int | None = None
        while True:  # one look-up for each priority, whatever the number of messages
            row = self.db.execute(
                "select rank from ready where queue = ? and rank > ? order by rank limit 1", (queue.id, -(2**62) if rank is None else rank)
            ).fetchone()
            if row is None:
                return
            rank = int(row[0])
            queue.rank(rank)

    def _first_due(self) -> float:
        row = self.db.execute("select min(due) from delayed").fetchone()
        return float("inf") if row is None or row[0] is None else float(row[0])

    def due_at(self, due: float) -> None:
        self.next_due = min(self.next_due, due)

    def _meta(self, name: str) -> int:
        (value,) = self.db.execute("select value from meta where name = ?", (name,)).fetchone()
        return int(value)

    def _set_meta(self, name: str, value: int) -> None:
        self.db.execute("update meta set value = ? where name = ?", (value, name))
