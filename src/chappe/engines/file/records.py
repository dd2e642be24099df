"""What the engine remembers beside messages: marks, schedules, tracked states, the archive, and what operators want of the fleet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from chappe.bounds import BUDGETS_KEPT, CLOCKS_APART, RESULTS_KEPT, Number
from chappe.engines.contract.fleet import PAUSED, QUEUE, TENANT
from chappe.engines.contract.results import ENDED, ended_as
from chappe.engines.fairness import weight_of
from chappe.engines.file import archiving
from chappe.engines.file.intake import Intake
from chappe.engines.file.seal import unseal_or_stand_in
from chappe.engines.file.turn import Turn
from chappe.engines.file.wire import Moment, Posted
from chappe.errors import NotFound
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import passes

_LOOKED_AT_ONCE: Final = 10_000
_ROOM: Final = 4 * 1024 * 1024  # bytes of envelopes in one answer, or one envelope
_DELETED_AT_ONCE: Final = 5_000
_COUNTED_AT_ONCE: Final = 20_000  # of a batch: what others ask waits meanwhile
_BATCH: Final = """
    select case when state in ('done', 'dead') then state else 'waiting' end, count(*), max(message_id) from (
        select message_id, state from tracked where message_id > ? and message_id < ? order by message_id limit ?
    ) group by 1
"""
_LAST_OF_BATCH: Final = """
    select message_id from tracked where substr(message_id, 37, 1) = '.' and message_id < ? order by message_id desc limit 1
"""
_LATEST: Final = """select number, what, value, who, at from desired
    where number in (select max(number) from desired group by what) and number > ? order by number limit ?"""
_EVERY: Final = (
    "select * from (select number, what, value, who, at from desired where number > ? order by number desc limit ?) order by number"
)
SERIALS_KEPT: Final = 600.0  # many times the deadline of a call


@dataclass
class _Kept:
    """What is known of the records of one exchange: none lies before `oldest`, and those up to `measured` have `size` bytes."""

    oldest: int = 0
    measured: int = 0
    size: int = 0


class Records:
    """The store's side of one file."""

    def __init__(self, turn: Turn, intake: Intake) -> None:
        self._turn = turn
        self._intake = intake
        self._kept: dict[str, _Kept] = {}

    def mark(self, message_id: str, handler: str, then: list[Posted], result: bytes | None) -> list[Any]:
        """Remember that a handler finished a message, and what it returned, or say what must be merged first."""
        if handler in self.marks(message_id):
            return []  # said again after an answer was lost
        conflicts = self._intake.conflicts(then)
        if not conflicts:
            if then:
                self._intake.publish(then)
            self._turn.write()
            self._turn.db.execute("insert or ignore into mark values (?, ?, ?)", (message_id, handler, result))
        return conflicts

    def marks(self, message_id: str) -> dict[str, bytes | None]:
        """Return the handlers that finished a message, each with what it returned."""
        return dict(self._turn.db.execute("select handler, result from mark where message_id = ?", (message_id,)).fetchall())

    def begin_schedules(self, application: str, definitions: dict[str, str], now: Moment) -> None:
        """Remember how schedules are defined; those that are new or changed count from now on."""
        self._turn.require_space()
        known = dict(
            self._turn.db.execute("select name, definition from schedule_definition where application = ?", (application,)).fetchall()
        )
        left_out = [name for name, definition in known.items() if name not in definitions and definition is not None]
        begun = {
            name: definition for name, definition in definitions.items() if known.get(name) != definition or self.last_fired(name) is None
        }
        if not left_out and not begun:
            return
        self._turn.write()
        self._turn.db.executemany("update schedule_definition set definition = null where name = ?", [(name,) for name in left_out])
        for name, definition in begun.items():
            self._turn.db.execute("insert or replace into schedule_definition values (?, ?, ?)", (name, application, definition))
            self._turn.db.execute("insert or replace into schedule values (?, ?)", (name, begin_at(self.last_fired(name), now)))

    def fire(self, schedule: str, slot: Moment, posted: list[Posted]) -> tuple[bool, list[Any]]:
        """Publish for a slot unless it or a later one was fired, or say what must be merged first."""
        self._turn.require_space()
        last = self.last_fired(schedule)
        if last is not None and last >= slot:
            return False, []
        if conflicts := self._intake.conflicts(posted):
            return False, conflicts
        if posted:
            self._intake.publish(posted)
        self._turn.write()
        self._turn.db.execute("insert or replace into schedule values (?, ?)", (schedule, slot))
        return True, []

    def last_fired(self, schedule: str) -> float | None:
        """Return the latest slot of a schedule."""
        row = self._turn.db.execute("select slot from schedule where name = ?", (schedule,)).fetchone()
        return None if row is None else float(row[0])

    def state(self, message_id: str) -> dict[str, Any]:
        """Tell where a tracked message is, or raise `NotFound`."""
        turn = self._turn
        row = turn.db.execute(
            "select type, state, queue, into_id, result, error, progress from tracked where message_id = ?", (message_id,)
        ).fetchone()
        if row is None:
            raise NotFound.message(message_id)
        name, state, queue, into, result, error, progress = row
        if state not in ENDED:
            state = self._living(str(queue), str(into or message_id))
        return {
            "id": message_id, "type": name, "state": ended_as(state, error), "queue": queue, "merged_into": into, "result": result,
            "error": error,
            "progress": msgspec.msgpack.decode(progress) if progress else None,
        }  # fmt: skip

    def _living(self, queue: str, message_id: str) -> str:
        found = self._turn.routes.queues.get(queue)
        if any(c.message_id == message_id for c in self._turn.claims.values()):
            return "running"
        if found is not None and found.delayed:
            row = self._turn.db.execute("select 1 from delayed where queue = ? and message_id = ?", (found.id, message_id)).fetchone()
            if row is not None:
                return "delayed"
        return "ready"

    def batch(self, batch: str, after: str) -> tuple[dict[str, int], str | None]:
        """Count some of the tracked messages of a batch, whose ids begin with its own, and tell behind which to go on."""
        rows = self._turn.db.execute(_BATCH, (after or f"{batch}.", f"{batch}/", _COUNTED_AT_ONCE)).fetchall()
        counts = {state: count for state, count, _ in rows}
        return counts, max(row[2] for row in rows) if sum(counts.values()) == _COUNTED_AT_ONCE else None

    def batches(self, before: str, limit: Number) -> list[str]:
        """List batches by one look at the last message of each."""
        found: list[str] = []
        end = f"{before}." if before else "~"
        while len(found) < limit and (row := self._turn.db.execute(_LAST_OF_BATCH, (end,)).fetchone()) is not None:
            found.append(row[0].rpartition(".")[0])
            end = f"{found[-1]}."
        return found

    def progress(self, message_id: str, done: Number, total: Number, text: str) -> None:
        """Show how far a tracked message is."""
        self._turn.write()
        self._turn.db.execute(
            "update tracked set progress = ? where message_id = ? or into_id = ?",
            (msgspec.msgpack.encode((done, total, text)), message_id, message_id),
        )

    def archived(self, after: Number, limit: Number, pattern: str) -> tuple[list[Any], int, int, int]:
        """Return archived messages in order, only those whose routing key fits; then `cursor`, `end` and `lost` of `Page`."""
        end, limit = archiving.end_of(self._turn.db), max(0, min(limit, 1000))
        if after >= end or not limit:
            return [], min(after, end), end, 0
        rows = self._turn.db.execute(
            "select at, exchange, seq, routing_key, message_id, envelope, events from archive where seq > ? order by seq limit ?",
            (after, _LOOKED_AT_ONCE),
        )
        found: list[Any] = []
        cursor, looked, room = after, 0, _ROOM
        for at, exchange, seq, key, message_id, stored in _events(rows, after):
            if pattern == "#" or passes("topic", pattern, key):
                room -= len(stored)
                if found and (len(found) >= limit or room < 0):
                    break
                found.append((seq, at, exchange, key, Raw(unseal_or_stand_in(stored, message_id))))
            cursor, looked = seq, looked + 1
            if looked == _LOOKED_AT_ONCE:
                break
        else:
            cursor = end
        return found, cursor, end, cursor - after - looked

    def followers(self) -> dict[str, int]:
        """Return the positions of followers."""
        rows = self._turn.db.execute("select name, value from tally where name >= 'follower ' and name < 'follower!'").fetchall()
        return {str(name)[9:]: msgspec.json.decode(value, type=int) for name, value in rows}

    def keep_position(self, follower: str, position: Number | None) -> None:
        """Keep how far a follower is, or forget it."""
        self._turn.write()
        self._turn.db.execute("delete from tally where name = ?", (f"follower {follower}",))
        if position is not None:
            self._turn.db.execute("insert into tally values (?, ?)", (f"follower {follower}", msgspec.json.encode(position)))

    def desire(self, what: str, value: str | None, who: str) -> tuple[Any, ...]:
        """Remember what somebody wants; a queue is paused or resumed with it."""
        turn = self._turn
        queue = turn.routes.queue(what.removeprefix(QUEUE)) if what.startswith(QUEUE) else None
        if what.startswith(TENANT) and value is not None:
            weight_of(value)
        turn.write()  # also on a full disk, where work may have to be stopped
        at = turn.now()
        turn.db.execute("insert into desired (what, value, who, at) values (?, ?, ?, ?)", (what, value, who, at))
        if what.startswith(TENANT):
            turn.reload_weights()
        if queue is not None:
            queue.paused = value == PAUSED
        return (turn.db.last_insert_rowid(), what, value, who, at)

    def desired(self, after: Number, every: bool, limit: Number) -> list[Any]:
        """Return what is wanted now, or all that was ever wanted."""
        return self._turn.db.execute(_EVERY if every else _LATEST, (after, max(0, min(limit, 1000)))).fetchall()

    def prune(self) -> bool:
        """Delete a bounded part of what was kept long enough; says whether that was all."""
        turn, now = self._turn, self._turn.now()
        turn.write()
        turn.forget_serials(now - SERIALS_KEPT)
        deleted = [self._delete(table, where, before) for table, where, before in (
            ("tracked", "state in ('done', 'dead') and at < ?", now - RESULTS_KEPT),
            ("idempotency", "until < ?", now),
            ("unique_key", "until < ?", now),
            ("budget", "max(tat, closed) < ?", now - BUDGETS_KEPT),
        )]  # fmt: skip
        deleted += [self._prune_archive(e, now - e.archive) for e in turn.routes.exchanges.values() if e.archive]
        return max(deleted) < _DELETED_AT_ONCE

    def _prune_archive(self, exchange: Exchange, before: float) -> int:
        """Delete what one exchange archived too long ago, or is too much, a bounded part at a time, and say how much was looked through.

        Records of exchanges that keep theirs longer lie between: where the oldest of this one is, is remembered.
        """
        first, last = self._turn.db.execute("select min(seq), max(seq) from archive").fetchone()
        if first is None:
            return 0
        kept, most = self._kept.setdefault(exchange.name, _Kept()), exchange.archive_bytes
        measured = self._measure(exchange.name, kept, int(first), int(last)) if most else 0
        begin = max(kept.oldest, int(first))
        end = min(begin + _DELETED_AT_ONCE, int(last) + 1)
        rows = self._of(exchange.name, begin, end)
        gone: list[tuple[int]] = []
        kept.oldest = end
        for seq, at, size in rows:
            if at >= before and not (most and kept.size > most):
                kept.oldest = seq
                break
            gone.append((seq,))
            kept.size -= size if seq <= kept.measured else 0
        self._turn.db.executemany("delete from archive where seq = ?", gone)
        return max(measured, end - begin if kept.oldest == end else 0)

    def _measure(self, exchange: str, kept: _Kept, first: int, last: int) -> int:
        """Add up a bounded part of what was not yet, and say how much was looked through."""
        begin = max(kept.measured + 1, first)
        end = min(begin + _DELETED_AT_ONCE, last + 1)
        kept.size += sum(size for _, _, size in self._of(exchange, begin, end))
        kept.measured = max(kept.measured, end - 1)
        return end - begin

    def _of(self, exchange: str, begin: int, end: int) -> list[tuple[int, float, int]]:
        rows = self._turn.db.execute(
            "select seq, at, length(envelope) from archive where seq >= ? and seq < ? and exchange = ? order by seq", (begin, end, exchange)
        )
        return cast("list[tuple[int, float, int]]", rows.fetchall())

    def _delete(self, table: str, where: str, before: float) -> int:
        key = "message_id" if table == "tracked" else "name"
        rows = self._turn.db.execute(
            f"select {key} from {table} where {where} limit ?",  # noqa: S608 - constant names
            (before, _DELETED_AT_ONCE),
        ).fetchall()
        self._turn.db.executemany(f"delete from {table} where {key} = ?", rows)  # noqa: S608 - constant names
        return len(rows)


def _events(rows: Iterable[Any], after: int) -> Iterator[tuple[float, str, int, str, str, bytes]]:
    for at, exchange, *row in rows:
        for seq, key, message_id, stored in archiving.events_of(*row):
            if seq > after:
                yield at, exchange, seq, key, message_id, stored


def begin_at(last: float | None, now: float) -> float:
    """Return from when on a schedule counts that begins again: a slot just fired is not repeated, a clock set back is not waited for."""
    return now if last is None or last > now + CLOCKS_APART else max(last, now)
