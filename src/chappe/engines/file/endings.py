"""How messages end: done, retried, dead, given back, blamed for a death, or cancelled before; and what is forgotten with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from chappe.bounds import DEATHS_ALLOWED, Number
from chappe.engines.contract.broker import DIED, Death
from chappe.engines.contract.results import CANCELLED
from chappe.engines.dispatch import SUSPECT
from chappe.engines.file.dispatch import Dispatch
from chappe.engines.file.queues import HAS_FILE, HISTORY, HOLDER, MERGES, RETURNED, TRACKED, UNIQUE, Claim, QueueState, Session
from chappe.engines.file.turn import DELAY, Turn
from chappe.errors import BrokerError
from chappe.failures import why_dead
from chappe.words import counted

NEVER: Final = float("inf")  # when a message is due that waits for a budget
_PASSING: Final = HISTORY | HOLDER | RETURNED | SUSPECT  # what a dead letter does not keep

INSERT_DEAD = """insert into dead (queue, rank, message_id, attempts, flags, key, reason, error, died_at, history, envelope, deaths)
    values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_DELETE = "delete from ready where queue = ? and rank = ? and id = ?"
_CHANGE = "update ready set attempt = ?, flags = ?, note = ? where queue = ? and rank = ? and id = ?"
_PENDING_AGAIN = "insert or ignore into pending (queue, key, id, due, rank, version) values (?, ?, ?, ?, ?, ?)"
_KEEP_UNIQUE = "update dead set unique_name = (select name from unique_key where message_id = ? and until is null) where number = ?"

_READY = "select queue, rank, id, message_id, flags, key from ready where message_id = ?"
_DELAYED = "select queue, due, id, message_id, flags, key from delayed where message_id = ?"
_PURGED_READY = (
    "select rank, id, message_id, flags, key from ready where queue = ? and (rank, id) > (?, ?) and id <= ? order by rank, id limit ?"
)
_PURGED_DELAYED = "select due, id, message_id, flags, key from delayed where queue = ? and id <= ? limit ?"
_PURGED_AT_ONCE: Final = 5_000  # what others ask waits meanwhile

Removed = tuple[float, int, str, int, str | None]  # the rank or due, number, id, flags and key of a message that is removed


class Endings:
    """The way out of the messages of one file."""

    def __init__(self, turn: Turn, dispatch: Dispatch) -> None:
        self._turn = turn
        self._dispatch = dispatch

    def claim_of(self, session: Session, tag: int) -> Claim | None:
        """Return what this session holds under a tag, or nothing if it was lost."""
        claim = self._turn.claims.get(tag)
        return claim if claim is not None and claim.session is session else None

    def charge(self, ended: Sequence[tuple[Claim, float | None]]) -> None:
        """Charge tenants with the seconds that their messages ran, or else with those since they were lent."""
        now = self._turn.now()
        charged: dict[tuple[QueueState, str | None], list[float]] = {}
        for claim, took in ended:
            charged.setdefault((claim.queue, claim.tenant), []).append(now - claim.lent_at if took is None else took)
        for (queue, tenant), seconds in charged.items():
            if tenant is not None and (shares := queue.line.shares) is not None:
                shares.took(tenant, sum(seconds), len(seconds))

    def ack(self, claims: Sequence[tuple[Claim, bytes | None, bool, str | None]]) -> None:
        """End claims as done, each with its result, whether handlers left marks, and why there is no result."""
        turn = self._turn
        turn.write()
        turn.db.executemany(_DELETE, [(c.queue.id, c.rank, c.id) for c, *_ in claims])
        turn.drop([claim for claim, *_ in claims])
        changed = turn.changed
        for claim, result, marked, error in claims:
            queue = claim.queue
            queue.rows -= 1
            queue.done += 1
            changed.add(queue)
            if claim.flags:
                self._forget(queue, claim.message_id, claim.flags)
                if claim.flags & TRACKED:
                    self._end_tracked(claim.message_id, "done", result, error)
            if marked:
                turn.db.execute("delete from mark where message_id = ?", (claim.message_id,))
            if claim.key is not None:
                self._dispatch.release(queue, claim.key)

    def retry(
        self, claim: Claim, after: float, *, counted: bool, error: str | None, note: str | None, budget: str | None = None,
        suspect: bool = False,
    ) -> None:  # fmt: skip
        """Make a claim ready again, at once at its old place, later, or when a budget has room; a suspect no more, unless it is said."""
        turn, queue = self._turn, claim.queue
        if not counted and after <= 0 and note is None and error is None and budget is None:
            self._return(claim, untouched=True)
            return
        turn.write()
        attempt = claim.attempt + (1 if counted else 0)
        flags = claim.flags & ~(RETURNED | (SUSPECT if budget is None else 0)) | (SUSPECT if suspect else 0)
        if counted:
            queue.retried += 1
        if error is not None:
            flags |= HISTORY
            self._remember(claim, error)
        place = (queue.id, claim.rank, claim.id)
        turn.drop((claim,))
        if after <= 0 and budget is None:
            turn.db.execute(_CHANGE, (attempt, flags, note, *place))
            self._dispatch.give_back(claim, flags)
        else:
            (envelope,) = turn.db.execute(f"{_DELETE} returning envelope", place).fetchone()
            due = turn.now() + after if budget is None else NEVER
            if claim.key is not None:
                flags |= HOLDER
            turn.db.execute(
                DELAY, (due, claim.id, queue.id, claim.rank, claim.message_id, attempt, flags, claim.key, note, envelope, budget)
            )  # fmt: skip
            queue.rows -= 1
            queue.delayed += 1
            turn.due_at(due)
            if budget is not None:
                self._dispatch.budgets.wait(queue.id, budget)
                if not counted and error is None:
                    self._pend_again(claim, due)
        turn.changed.add(queue)

    def dead_letter(self, claim: Claim, reason: str, error: str | None, *, counted: bool = True) -> None:
        """Make a claim a dead letter with its history; in a temporary queue it is gone."""
        turn, queue = self._turn, claim.queue
        turn.write()
        (envelope,) = turn.db.execute(f"{_DELETE} returning envelope", (queue.id, claim.rank, claim.id)).fetchone()
        if not queue.owner:
            failures = turn.db.execute("select at, attempt, error from failure where message_id = ? order by rowid", (claim.scope,))
            history = msgspec.msgpack.encode(failures.fetchall())
            died = turn.db.execute("select count from death where message_id = ?", (claim.scope,)).fetchone()
            turn.db.execute(
                INSERT_DEAD,
                (queue.id, claim.rank, claim.message_id, claim.attempt + (1 if counted else 0), claim.flags & ~_PASSING, claim.key,
                 reason, error, turn.now(), history, envelope, died[0] if died else 0),
            )  # fmt: skip
            if claim.flags & UNIQUE:
                turn.db.execute(_KEEP_UNIQUE, (claim.message_id, turn.db.last_insert_rowid()))
            queue.dead += 1
        turn.db.execute("delete from death where message_id = ?", (claim.scope,))
        self._forget(queue, claim.message_id, claim.flags)
        if claim.flags & TRACKED:
            self._end_tracked(claim.message_id, "dead", None, why_dead(reason, error))
        turn.drop((claim,))
        queue.rows -= 1
        queue.died += 1
        turn.changed.add(queue)
        if claim.key is not None:
            self._dispatch.release(queue, claim.key)

    # --- of sessions that are gone

    def give_back(self, session: Session, death: Death | None, who: str = "its worker") -> None:
        """Take everything from a session that ended; `death` is what the table of a worker says of it."""
        for tag, claim in list(session.claims.items()):
            if death is None or tag not in death.deliveries:
                self._return(claim, untouched=False)
            else:
                self._blame(claim, death, f"{who} died while it ran this")

    def blame(self, death: Death) -> None:
        """Count a death for the messages that were running when their worker and the engine died in the same moment."""
        for tag in death.deliveries:
            held = (self._dispatch.hold(Session(), queue, tag) for queue in self._turn.routes.queues.values())
            if (claim := next((claim for claim in held if claim is not None), None)) is not None:
                self._blame(claim, death, f"{DIED}, and the engine with it")

    def _blame(self, claim: Claim, death: Death, died: str) -> None:
        """Count the death of its worker for a message, and have it run alone from now on; what ran out of its time has failed an attempt.

        Where nothing executed, it runs alone after its second death only: else a worker that is killed from outside would have all that
        waited in it run one by one.
        """
        db, error = self._turn.db, died if death.error == DIED else death.error
        self._turn.write()
        if death.after is not None:
            if death.is_last:
                self.dead_letter(claim, "attempts spent", error)
            else:
                self.retry(claim, death.after, counted=True, error=error, note=None, suspect=True)
            return
        db.execute("insert into death values (?, 1) on conflict do update set count = count + 1", (claim.scope,))
        self._remember(claim, error)
        (deaths,) = db.execute("select count from death where message_id = ?", (claim.scope,)).fetchone()
        flags = claim.flags & ~RETURNED | HISTORY | (SUSPECT if death.is_sure or int(deaths) > 1 else 0)
        if int(deaths) >= DEATHS_ALLOWED:
            why = f"{deaths} workers died while they ran this; the last time {error}"
            self.dead_letter(msgspec.structs.replace(claim, flags=flags), "worker_lost", why)
            return
        db.execute("update ready set flags = ? where queue = ? and rank = ? and id = ?", (flags, claim.queue.id, claim.rank, claim.id))
        self._turn.drop((claim,))
        self._dispatch.give_back(claim, flags)

    def _return(self, claim: Claim, *, untouched: bool) -> None:
        """Put a message back to its old place; it is pending again only if nobody can have begun it.

        What may have run under its id must not become more under the same id: a handler that remembers ids would skip it.
        """
        self._turn.drop((claim,))
        self._dispatch.give_back(claim, claim.flags)
        if untouched:
            self._pend_again(claim, None)

    def _pend_again(self, claim: Claim, due: float | None) -> None:
        if claim.flags & MERGES and not claim.flags & RETURNED:
            self._turn.write()
            self._turn.db.execute(_PENDING_AGAIN, (claim.queue.id, claim.key, claim.id, due, claim.rank, self._turn.next_id()))

    # --- what is remembered, and forgotten

    def _remember(self, claim: Claim, error: str) -> None:
        self._turn.db.execute("insert into failure values (?, ?, ?, ?)", (claim.scope, self._turn.now(), claim.attempt + 1, error))

    def _forget(self, queue: QueueState, message_id: str, flags: int) -> None:
        if flags & HAS_FILE:
            self._turn.has_leftovers = True
        if flags & HISTORY:
            scope = f"{queue.id}/{message_id}"
            self._turn.db.execute("delete from failure where message_id = ?", (scope,))
            self._turn.db.execute("delete from death where message_id = ?", (scope,))
        if flags & UNIQUE:
            self._turn.db.execute("delete from unique_key where message_id = ? and until is null", (message_id,))

    def _end_tracked(self, message_id: str, state: str, result: bytes | None, error: str | None) -> None:
        """Store how a tracked message and all that were merged into it ended."""
        turn = self._turn
        turn.db.execute(
            "update tracked set state = ?, result = ?, error = ?, at = ? where message_id = ? or into_id = ?",
            (state, result, error, turn.now(), message_id, message_id),
        )
        turn.finished.append(message_id)
        turn.finished += [str(row[0]) for row in turn.db.execute("select message_id from tracked where into_id = ?", (message_id,))]

    def remove(self, queue: QueueState, table: str, rows: Sequence[Removed], why: str) -> None:
        """Remove messages that are ready or delayed before they end, and what is remembered of them."""
        db, column = self._turn.db, "rank" if table == "ready" else "due"
        self._turn.write()
        db.executemany(f"delete from {table} where queue = ? and {column} = ? and id = ?", [(queue.id, *row[:2]) for row in rows])  # noqa: S608 - constant names
        if table == "ready":
            queue.rows -= len(rows)
        else:
            queue.delayed -= len(rows)
        self._turn.changed.add(queue)
        if not queue.owner:
            db.executemany("delete from mark where message_id = ?", [(row[2],) for row in rows])
        for _, number, message_id, flags, key in rows:
            if key is not None and queue.line.held.get(key) == number:
                del queue.line.held[key]
            if flags & TRACKED:
                self._end_tracked(message_id, "dead", None, why)
            if flags & MERGES:
                db.execute("delete from pending where queue = ? and key = ? and id = ?", (queue.id, key, number))
            self._forget(queue, message_id, flags)

    def withdraw(self, message_id: str) -> str | None:
        """Remove a message from all queues in which it waits, and return in which state it was; nothing if it waits nowhere.

        Of a message that is not tracked nobody knows its queue: then everything that waits is looked through.
        """
        turn, state = self._turn, None
        row = turn.db.execute("select queue from tracked where message_id = ?", (message_id,)).fetchone()
        known = None if row is None else turn.routes.queues.get(str(row[0]))
        where, values = ("", (message_id,)) if known is None else (" and queue = ?", (message_id, known.id))
        for table, select in (("ready", _READY), ("delayed", _DELAYED)):
            for queue_id, *row in turn.db.execute(select + where, values).fetchall():
                if row[1] not in turn.claims:
                    state, queue = table, turn.routes.by_id[queue_id]
                    self.remove(queue, table, [(*row,)], CANCELLED)
                    self._dispatch.refresh(queue)
        return state

    def purge(self, queue: str, delete: bool, place: tuple[Number, Number, Number] | None) -> tuple[int, tuple[int, int, int] | None]:
        """Remove some of what is ready and delayed in a queue, and return how many and the place at which to go on, if that was not all.

        What comes or becomes due after the first step may stay. With `delete` it goes too, and the queue with the last: raises
        `BrokerError` where messages of it are running or dead, and `NotFound`.
        """
        turn, most = self._turn, _PURGED_AT_ONCE
        if place is not None and queue not in turn.routes.queues:
            return 0, None  # another one was faster
        found = turn.routes.queue(queue)
        if delete and (found.running or found.dead):
            raise BrokerError(
                f'queue "{queue}" has {found.running} running and {counted(found.dead, "dead message")}; '
                "end or discard them before deleting it"
            )
        until, rank, number = place or (2**62 if delete else turn.next_id(), -(2**62), 0)
        delayed = turn.db.execute(_PURGED_DELAYED, (found.id, until, most)).fetchall()
        seen = turn.db.execute(_PURGED_READY, (found.id, rank, number, until, most - len(delayed))).fetchall()
        ready = [row for row in seen if row[1] not in turn.claims]
        self.remove(found, "delayed", delayed, "purged")
        self.remove(found, "ready", ready, "purged")
        self._dispatch.refresh(found)  # what waited for a key whose message was removed is behind the cursor
        if is_over := len(delayed) + len(seen) < most:
            if delete:
                turn.routes.remove(found)
        elif seen:
            rank, number, *_ = seen[-1]
        return len(delayed) + len(ready), None if is_over else (until, rank, number)
