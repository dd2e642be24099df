"""How what was lent ends: done, back to its place, delayed until its next attempt, or a dead letter; and who has its key's turn then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chappe.engines.rabbitmq.outbox import Ended, Ending, Ticket, mark_of
from chappe.engines.rabbitmq.store.database import Cursor, Database
from chappe.engines.rabbitmq.store.envelopes import decode, encode
from chappe.engines.rabbitmq.store.intake import HISTORY, MERGES, RETURNED, RUNNING, TRACKED, UNIQUE, Intake
from chappe.engines.rabbitmq.store.presence import Presence
from chappe.engines.rabbitmq.store.routes import Routes
from chappe.engines.rabbitmq.store.rows import Row, lock_keys, rows_of
from chappe.errors import Rejected
from chappe.failures import why_dead

_NEXT_OF_KEY: Final = """
    select place, number, rank, ticketed, envelope, sending from message where queue = %s and key = %s and state = 1
    order by rank, place limit 1
"""
_BURY: Final = """
    insert into dead (queue, rank, message_id, attempts, flags, key, reason, error, died_at, history, envelope)
    values (%s, %s, %s, %s, %s, %s, %s, %s, now_seconds(), %s, %s)
"""
_DELAY: Final = """
    insert into message (number, queue, rank, message_id, state, due, attempt, flags, note, ticketed, sent, envelope)
    values (nextval('publication'), %s, 0, %s, 0, now_seconds() + %s, %s, %s, %s, false, false, %s)
"""


_NONE: Final = 0  # no queue has this number


class _Refused(Exception):
    """Takes a savepoint back; it never leaves this file."""

    def __init__(self, ended: Ended) -> None:
        self.ended = ended


class Endings:
    """Ends what one session was lent."""

    def __init__(self, database: Database, routes: Routes, intake: Intake, presence: Presence) -> None:
        self._database = database
        self._routes = routes
        self._intake = intake
        self._presence = presence

    async def settle(self, endings: Sequence[Ending]) -> tuple[list[Ended], list[Ticket]]:
        session = await self._presence.number()

        async def work(cursor: Cursor) -> tuple[list[Ended], list[Ticket]]:
            ended: list[Ended] = []
            tickets: list[Ticket] = []
            await self._routes.refresh(cursor)
            await self._lock_all_keys(cursor, endings)
            for ending in endings:
                try:
                    async with cursor.connection.transaction():
                        answer, more = await self._end(cursor, ending, session)
                except _Refused as refused:
                    ended.append(refused.ended)
                else:
                    ended.append(answer)
                    tickets += more
            return ended, tickets

        return await self._database.run(work)

    async def _lock_all_keys(self, cursor: Cursor, endings: Sequence[Ending]) -> None:
        """Lock the keys of all that ends here before anything is changed, in one order: two who settle must not wait in a ring."""
        numbers: dict[str, list[int]] = {}
        for ending in endings:
            if ending.copy is not None:
                numbers.setdefault(ending.queue, []).append(ending.copy.number)
        for queue, mine in sorted(numbers.items()):
            await lock_keys(cursor, self._routes.queue(queue).id, mine)

    async def _end(self, cursor: Cursor, ending: Ending, session: int) -> tuple[Ended, list[Ticket]]:
        queue = self._routes.queue(ending.queue).id if ending.queue else _NONE
        row: Row | None = None
        if ending.copy is not None:
            row = (await rows_of(cursor, queue, [ending.copy.number])).get(ending.copy.number)
            if row is None or row.state != RUNNING or row.session != session or row.loan != ending.copy.loan:
                raise _Refused(Ended("stale", "the delivery was lost to somebody else, or settled already"))
        if ending.kind == "ack":
            return await self._ack(cursor, ending, queue, row)
        if ending.kind == "retry":
            return await self._retry(cursor, ending, queue, row), []
        return await self._bury(cursor, ending, queue, row)

    async def _ack(self, cursor: Cursor, ending: Ending, queue: int, row: Row | None) -> tuple[Ended, list[Ticket]]:
        tickets: list[Ticket] = []
        if ending.then:
            try:
                receipts, tickets = await self._intake.publish_whole(cursor, ending.then)
            except Rejected as error:
                raise _Refused(Ended("unroutable", str(error))) from None
            if any(receipt.outcome == "pending" for receipt in receipts):
                raise _Refused(Ended("pending", "merge with the pending message first", tuple(receipts)))
        if ending.deaths:
            await cursor.execute("delete from death where mark = %s", (mark_of(ending.queue, ending.envelope.id),))
        if ending.marked:
            await cursor.execute("delete from mark where message_id = %s", (ending.envelope.id,))
        if ending.kept or (row is not None and row.flags & HISTORY):
            await self._forget_attempts(cursor, queue, ending.envelope.id)
        if row is not None:
            await cursor.execute("delete from message where place = %s", (row.place,))
            await self._let_go(cursor, row, "done", ending.result, None)
            tickets += await self._free_key(cursor, ending.queue, queue, row)
        return Ended(), tickets

    async def _retry(self, cursor: Cursor, ending: Ending, queue: int, row: Row | None) -> Ended:
        message_id = ending.envelope.id
        untouched = not ending.counted and ending.after <= 0 and ending.note is None and ending.text is None
        if ending.text is not None:
            await cursor.execute(
                "insert into failure values (%s, %s, now_seconds(), %s, %s)", (queue, message_id, ending.attempt, ending.text)
            )
        attempt = ending.attempt - ending.deaths - (0 if ending.counted else 1)
        if row is None:
            return await self._retry_in_broker(cursor, ending, queue, attempt)
        flags = row.flags & ~RETURNED | (HISTORY if ending.text is not None else 0)
        if untouched:
            pending = await self._pending_again(cursor, queue, row)
            await cursor.execute(
                "update message set state = 1, ticketed = true, session = null, version = %s where place = %s", (pending, row.place)
            )
            return Ended(back=True)
        if ending.after <= 0:
            await cursor.execute(
                "update message set state = 1, ticketed = true, session = null, attempt = %s, flags = %s, note = %s where place = %s",
                (attempt, flags, ending.note, row.place),
            )
            return Ended(back=True)
        await cursor.execute(
            "update message set state = 0, due = now_seconds() + %s, session = null, attempt = %s, flags = %s, note = %s where place = %s",
            (ending.after, attempt, flags, ending.note, row.place),
        )
        return Ended()

    async def _pending_again(self, cursor: Cursor, queue: int, row: Row) -> int | None:
        """Return a version if others may be merged into what comes back, because nobody can have begun it."""
        if not row.flags & MERGES or row.flags & RETURNED:
            return None
        await cursor.execute("select 1 from message where queue = %s and key = %s and pending", (queue, row.key))
        if await cursor.fetchone() is not None:
            return None
        await cursor.execute("select nextval('place')")
        found = await cursor.fetchone()
        return None if found is None else int(found[0])

    async def _retry_in_broker(self, cursor: Cursor, ending: Ending, queue: int, attempt: int) -> Ended:
        message_id = ending.envelope.id
        if ending.after <= 0:
            await cursor.execute(
                "insert into attempt values (%s, %s, %s, %s) on conflict (queue, message_id) do update"
                " set attempt = excluded.attempt, note = excluded.note, at = now_seconds()",
                (queue, message_id, attempt, ending.note),
            )
            return Ended(back=True)
        await cursor.execute("delete from attempt where queue = %s and message_id = %s", (queue, message_id))
        flags = HISTORY if ending.kept or ending.text is not None else 0
        await cursor.execute(_DELAY, (queue, message_id, ending.after, attempt, flags, ending.note, encode(ending.envelope)))
        return Ended()

    async def _bury(self, cursor: Cursor, ending: Ending, queue: int, row: Row | None) -> tuple[Ended, list[Ticket]]:
        message_id = ending.envelope.id
        await cursor.execute("select at, attempt, error from failure where queue = %s and message_id = %s order by at", (queue, message_id))
        history = encode(await cursor.fetchall())
        await cursor.execute("delete from death where mark = %s", (mark_of(ending.queue, message_id),))
        flags = 0 if row is None else row.flags & (TRACKED | UNIQUE | MERGES)
        values = (queue, 0 if row is None else row.rank, message_id, ending.attempt, flags, None if row is None else row.key)
        await cursor.execute(_BURY, (*values, ending.reason, ending.text, history, encode(ending.envelope)))
        if ending.kept or row is None or row.flags & HISTORY:
            await self._forget_attempts(cursor, queue, message_id)
        if row is None:
            return Ended(), []
        await cursor.execute("delete from message where place = %s", (row.place,))
        error = why_dead(ending.reason, ending.text)
        await self._let_go(cursor, row, "dead", None, error)
        return Ended(), await self._free_key(cursor, ending.queue, queue, row)

    async def _let_go(self, cursor: Cursor, row: Row, state: str, result: bytes | None, error: str | None) -> None:
        if row.flags & UNIQUE:
            await cursor.execute("delete from unique_key where message_id = %s and until is null", (row.message_id,))
        if row.flags & TRACKED:
            await cursor.execute(
                "with ended as (update tracked set state = %s, result = %s, error = %s, at = now_seconds()"
                " where message_id = %s or into_id = %s returning message_id) select pg_notify('chappe_ended', message_id) from ended",
                (state, result, error, row.message_id, row.message_id),
            )

    async def _forget_attempts(self, cursor: Cursor, queue: int, message_id: str) -> None:
        await cursor.execute("delete from attempt where queue = %s and message_id = %s", (queue, message_id))
        await cursor.execute("delete from failure where queue = %s and message_id = %s", (queue, message_id))

    async def _free_key(self, cursor: Cursor, name: str, queue: int, row: Row) -> list[Ticket]:
        """Return the turn of a key to the next in line, and the ticket for it if none waits in the broker."""
        if row.key is None:
            return []
        await cursor.execute("delete from held where queue = %s and key = %s and number = %s", (queue, row.key, row.number))
        await cursor.execute(_NEXT_OF_KEY, (queue, row.key))
        found = await cursor.fetchone()
        if found is None or found[3]:
            return []
        place, number, rank, _, envelope, sending = found
        await cursor.execute(
            "update message set ticketed = true, sent = false, sending = sending + 1, stored_at = now_seconds() where place = %s", (place,)
        )
        return [Ticket(int(number), "", name, -int(rank), decode(envelope), int(sending) + 1)]
