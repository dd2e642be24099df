"""The transaction of one turn: what is written together, and what is taken back together, in the file and in memory.

It is synchronous, does no I/O but SQLite's and the log's, and reads no clock by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from chappe.engines.fairness import weights_of
from chappe.engines.file.database import Database
from chappe.engines.file.log import Log
from chappe.engines.file.queues import Claim, QueueState
from chappe.engines.file.routes import Routes
from chappe.errors import StorageFull
from chappe.messages.codec import encode_json

INSERT = "insert into ready (queue, rank, id, message_id, attempt, flags, key, note, envelope) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_FAIR = """insert into ready (queue, rank, id, message_id, attempt, flags, key, note, envelope, since, tenant)
    values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_WEIGHTS = "select what, value from desired where number in (select max(number) from desired where what glob 'tenant:*' group by what)"
DELAY = """insert into delayed (due, id, queue, rank, message_id, attempt, flags, key, note, envelope, budget)
    values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

ARCHIVED: Final = ""  # among what is finished: something was archived
_IDS_AT_ONCE: Final = 1_000_000
_TALLY = "insert or replace into tally values (?, ?)"
_serials = msgspec.json.Decoder(tuple[int, list[int], float]).decode


class Turn:
    """What is stored of the messages of one file, and which of them are lent."""

    def __init__(self, path: Path, db: Database, now: Callable[[], float]) -> None:
        self.path = path
        self.db = db
        self.now = now
        self.full = False  # whether the disk is, so that nothing new is stored
        self.writing = False
        self.claims: dict[int, Claim] = {}
        self.body_files = set[str]()  # of messages that are stored in this turn
        self.has_leftovers = True
        self.finished: list[str] = []  # tracked messages that end in this turn
        self._moves: list[tuple[bool, Sequence[Claim]]] = []  # what was lent (true) and ended (false) in this turn, in order
        self.passing: list[tuple[str, int]] = []  # the exchanges of what is published in this turn, and to how many queues each went
        self.passed: dict[str, tuple[int, int]] = {}  # what was published to each exchange since the start, and delivered to queues
        self.changed: set[QueueState] = set()  # the queues whose counters are stored with this turn
        self.routes = Routes(db)
        self.weights: dict[str, float] = {}  # of tenants
        self.reload_weights()
        self._next = self._reserved = self._meta("next_id")
        self.was_held = self._meta("held") != 0
        self._set_meta("held", -1)
        self.next_due = self.first_due()
        self.log = Log(path, db)

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
        self.changed.clear()
        for exchange, queues in self.passing:
            published, delivered = self.passed.get(exchange, (0, 0))
            self.passed[exchange] = (published + 1, delivered + queues)
        self.passing.clear()

    def undo(self) -> None:
        """Take back everything since the last commit; the lines of the queues begin anew after it."""
        if self.writing and not self.db.get_autocommit():
            self.db.execute("rollback")
        self.writing = False
        moves, self._moves = self._moves, []
        for lent, claims in reversed(moves):
            (self.drop if lent else self.hold)(claims)
        self._moves.clear()
        self.changed.clear()
        self.passing.clear()
        self.finished.clear()
        self.body_files.clear()
        self.routes.reload()
        self.reload_weights()
        self._next = self._reserved = max(self._next, self._meta("next_id"))
        self.next_due = self.first_due()

    def reload_weights(self) -> None:
        """Take the weights of tenants as the file says them."""
        self.weights.clear()
        self.weights.update(weights_of(self.db.execute(_WEIGHTS).fetchall()))
        for queue in self.routes.queues.values():
            if queue.line.shares is not None:
                queue.line.shares.reweigh()

    def close(self, *, held: int) -> None:
        """Close the file, remembering how many messages were lent."""
        self._set_meta("held", held)
        self.db.close()

    def out_of_space(self) -> StorageFull:
        """Return the refusal of what needs room on a full disk."""
        return StorageFull(f"no room to store more in {self.path.parent}; free some space, nothing was lost and what is stored goes on")

    def require_space(self) -> None:
        """Raise `StorageFull` while the disk is: what room is left is for settling."""
        if self.full:
            raise self.out_of_space()

    # --- what is lent

    def hold(self, claims: Sequence[Claim]) -> None:
        """Have messages be lent."""
        held = self.claims
        for claim in claims:
            held[claim.id] = claim.session.claims[claim.id] = claim
            claim.queue.running += 1
        _count_running(claims, 1)
        self._moves.append((True, claims))

    def drop(self, claims: Sequence[Claim]) -> None:
        """Have messages be lent no more."""
        held = self.claims
        for claim in claims:
            del held[claim.id], claim.session.claims[claim.id]
            claim.queue.running -= 1
        _count_running(claims, -1)
        self._moves.append((False, claims))

    # --- what is counted

    def next_id(self) -> int:
        """Return a number that grows for ever, also over restarts."""
        if self._next >= self._reserved:
            self._reserved = self._next + _IDS_AT_ONCE
            self._set_meta("next_id", self._reserved)
        self._next += 1
        return self._next

    def first_due(self) -> float:
        """Return when the first delayed message is due."""
        row = self.db.execute("select min(due) from delayed").fetchone()
        return float("inf") if row is None or row[0] is None else float(row[0])

    def due_at(self, due: float) -> None:
        """Note when a message that was stored is due."""
        self.next_due = min(self.next_due, due)

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

    def _save_counters(self) -> None:
        there = [queue for queue in self.changed if self.routes.by_id.get(queue.id) is queue]
        self.db.executemany(_TALLY, [(f"queue {q.id}", encode_json(q.counts)) for q in there])

    def _meta(self, name: str) -> int:
        (value,) = self.db.execute("select value from meta where name = ?", (name,)).fetchone()
        return int(value)

    def _set_meta(self, name: str, value: Any) -> None:
        self.db.execute("update meta set value = ? where name = ?", (value, name))


def _count_running(claims: Sequence[Claim], step: int) -> None:
    """Tell of the tenants of messages how many run more, or less."""
    for (queue, tenant), count in Counter([(c.queue, c.tenant) for c in claims if c.tenant is not None]).items():
        if (shares := queue.line.shares) is not None:
            shares.lent(tenant, step * count)
