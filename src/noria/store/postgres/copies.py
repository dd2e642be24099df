"""The life of a copy: lent by its ticket, settled, retried, buried, made due; every verb is one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString, NamedTuple

import msgspec

from noria.errors import Rejected
from noria.messages.envelope import Envelope, Publication, Receipt
from noria.messages.outbox import Counts, Ended, Ending, Lent, Presented, Ticket, mark_of
from noria.store.postgres.database import Cursor, Database
from noria.store.postgres.intake import DELAYED, HISTORY, MERGES, READY, RETURNED, RUNNING, TRACKED, UNIQUE, Intake, tickets_of
from noria.store.postgres.lone import Lone
from noria.store.postgres.presence import ALIVE, Presence
from noria.store.postgres.routes import Routes

_PROMOTED_AT_ONCE: Final = 1000
_UNSENT_AFTER: Final = 5.0  # seconds after which a ticket that nobody saw confirmed is sent again

_COPY: Final[LiteralString] = "place, number, state, key, ticket, attempt, flags, version, note, session, message_id, rank, loan, envelope"
_PROMOTE: Final = """
    update message m set state = 1, place = d.later, due = null, ticketed = true, sent = false, stored_at = now_seconds(),
        sending = m.sending + 1
    from (
        select place, case when turn is null then nextval('place') else place end as later from (
            select m.place, h.number as turn from message m
            left join held h on h.queue = m.queue and h.key = m.key and h.number = m.number
            where m.state = 0 and m.due <= now_seconds() order by m.due, m.place limit %s for update of m skip locked
        ) found
    ) d
    where m.place = d.place
    returning m.number, m.queue, m.rank, m.exchange, m.routing_key, m.envelope, m.place, m.sending
"""
_UNSENT: Final = """
    update message set stored_at = now_seconds() where place in (
        select place from message where state = 1 and not sent and ticketed and stored_at < now_seconds() - %s
        order by stored_at limit %s for update skip locked
    ) returning number, queue, rank, exchange, routing_key, envelope, place, sending
"""
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

_FIRST: Final = """
    select place from message where queue = %(queue)s and state = 1 and ticketed and sign(rank) = %(sign)s
        and (sent or number = any(%(numbers)s))
    order by rank, place limit %(limit)s for update
"""
_SENDINGS: Final[LiteralString] = "select * from unnest(%s::bigint[], %s::integer[]) as s (number, sending)"
_CONFIRM: Final[LiteralString] = (
    "update message m set sent = true, exchange = null from (" + _SENDINGS + ") s"
    " where m.number = s.number and m.sending = s.sending and m.state = 1 and m.queue is not null"
)
_CONFIRM_LONE: Final[LiteralString] = (
    "delete from message m using ("
    + _SENDINGS
    + ") s where m.number = s.number and m.sending = s.sending and m.state = 1 and m.queue is null"
)
_COUNT: Final[LiteralString] = (
    "select queue, count(*) filter (where state = 1), count(*) filter (where state = 2 and lives),"
    " count(*) filter (where state = 2 and not lives), count(*) filter (where state = 0), count(*) filter (where ticketed)"
    " from (select queue, state, ticketed, state <> 2 or " + ALIVE + " as lives from message where queue = any(%s)) found group by queue"
)
_PURGE: Final[LiteralString] = (
    """
    with gone as (
        delete from message where queue = %(queue)s and (state in (0, 1) or (state = 2 and not """
    + ALIVE
    + """))
        returning message_id, number, key, flags
    ),
    freed as (delete from held h using gone where h.queue = %(queue)s and h.key = gone.key and h.number = gone.number),
    unmarked as (delete from mark m using gone where m.message_id = gone.message_id),
    unique_again as (delete from unique_key u using gone
        where gone.flags & 2 > 0 and u.message_id = gone.message_id and u.until is null),
    forgiven as (delete from failure f using gone
        where gone.flags & 4 > 0 and f.queue = %(queue)s and f.message_id = gone.message_id),
    ended as (
        update tracked t set state = 'dead', error = 'purged', at = now_seconds() from gone
        where gone.flags & 1 > 0 and (t.message_id = gone.message_id or t.into_id = gone.message_id) returning t.message_id
    ),
    told as (select pg_notify('noria_ended', message_id) from ended)
    select (select count(*) from gone) + 0 * (select count(*) from told)
"""
)

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Envelope).decode


class Row(NamedTuple):
    """A copy as it is stored."""

    place: int
    number: int
    state: int
    key: str | None
    ticket: str | None
    attempt: int
    flags: int
    version: int | None
    note: str | None
    session: int | None
    message_id: str
    rank: int
    loan: int
    envelope: bytes


class _Refused(Exception):
    """Takes a savepoint back; it never leaves this file."""

    def __init__(self, ended: Ended) -> None:
        self.ended = ended


class Copies:
    """The copies of all queues, for one session."""

    def __init__(self, database: Database, routes: Routes, intake: Intake, presence: Presence) -> None:
        self._database = database
        self._routes = routes
        self._intake = intake
        self._presence = presence
        self._lone = Lone(database, routes)

    async def publish(self, publications: Sequence[Publication]) -> tuple[list[Receipt], list[Ticket]]:
        if len(publications) == 1 and (stored := await self._lone.publish(publications[0])) is not None:
            return stored
        return await self._database.run(lambda cursor: self._intake.publish(cursor, publications))

    # --- lending

    async def present(self, queue: str, sign: int, tickets: Sequence[Presented]) -> list[Lent | None]:
        session = await self._presence.number()

        async def work(cursor: Cursor) -> list[Lent | None]:
            known = await self._queue(cursor, queue)
            if sign == 0:
                await self._lock_keys(cursor, known, [t.number for t in tickets])
                rows = await self._rows(cursor, known, [t.number for t in tickets])
                chosen = [rows.get(ticket.number) for ticket in tickets]
            else:
                chosen = await self._first(cursor, known, sign, tickets)
            turns = await self._turns(cursor, known, {row.key for row in chosen if row is not None and row.key is not None})
            lent: list[Lent | None] = []
            dropped: list[int] = []
            used: set[int] = set()
            for ticket, row in zip(tickets, chosen, strict=True):
                lent.append(None)
                if row is None or row.number in used:
                    continue
                if row.state != READY and not (row.state == RUNNING and row.ticket == ticket.ticket):
                    continue  # a copy that runs under this very ticket was lost by whoever had it
                used.add(row.number)
                if row.key is not None and turns.setdefault(row.key, row.number) != row.number:
                    dropped.append(row.place)
                    continue
                lent[-1] = Lent(row.number, ticket.ticket, row.loan + 1, row.attempt + 1, row.note, _decode(row.envelope))
                await self._lend(cursor, known, row, session, ticket.ticket)
            if dropped:
                await cursor.execute("update message set ticketed = false, sent = true where place = any(%s)", (dropped,))
            return lent

        return await self._database.run(work)

    async def _first(self, cursor: Cursor, queue: int, sign: int, tickets: Sequence[Presented]) -> list[Row | None]:
        """Give for each ticket what it lent before, or else the first copies of this sign: there are as many as tickets."""
        await cursor.execute("select pg_advisory_xact_lock(%s, %s)", (queue, sign))  # two who look at once would find the same
        await cursor.execute(
            "select " + _COPY + " from message where queue = %s and state = 2 and ticket = any(%s) for update",
            (queue, [ticket.ticket for ticket in tickets]),
        )
        again = {row.ticket: row for row in [Row(*row) for row in await cursor.fetchall()]}
        wanted = sum(1 for ticket in tickets if ticket.ticket not in again)
        numbers = [ticket.number for ticket in tickets]
        await cursor.execute(_FIRST, {"queue": queue, "sign": -sign, "limit": wanted, "numbers": numbers})
        places = [int(row[0]) for row in await cursor.fetchall()]
        await self._lock_keys_at(cursor, queue, places)
        await cursor.execute("select " + _COPY + " from message where place = any(%s) order by rank, place for update", (places,))
        first = iter([Row(*row) for row in await cursor.fetchall()])
        return [again.get(ticket.ticket) or next(first, None) for ticket in tickets]

    async def _lend(self, cursor: Cursor, queue: int, row: Row, session: int, ticket: str) -> None:
        flags = row.flags | (RETURNED if row.flags & MERGES and row.version is None else 0)
        await cursor.execute(
            "update message set state = 2, session = %s, ticket = %s, loan = loan + 1, ticketed = false, sent = true, version = null,"
            " exchange = null, flags = %s where place = %s",
            (session, ticket, flags, row.place),
        )
        if row.key is not None:
            await cursor.execute("insert into held values (%s, %s, %s) on conflict do nothing", (queue, row.key, row.number))

    async def _turns(self, cursor: Cursor, queue: int, keys: set[str]) -> dict[str, int]:
        """Give for each key the number of the copy that may run, or runs."""
        if not keys:
            return {}
        wanted = sorted(keys)
        await cursor.execute(
            "select distinct on (key) key, number from message where queue = %s and key = any(%s) and state = 1 order by key, rank, place",
            (queue, wanted),
        )
        turns = {str(key): int(number) for key, number in await cursor.fetchall()}
        await cursor.execute("select key, number from held where queue = %s and key = any(%s)", (queue, wanted))
        turns.update((str(key), int(number)) for key, number in await cursor.fetchall())
        return turns

    async def _rows(self, cursor: Cursor, queue: int, numbers: Sequence[int]) -> dict[int, Row]:
        await cursor.execute(
            "select " + _COPY + " from message where queue = %s and number = any(%s) order by place for update",
            (queue, list(numbers)),
        )
        return {row[1]: Row(*row) for row in await cursor.fetchall()}

    async def _lock_keys(self, cursor: Cursor, queue: int, numbers: Sequence[int]) -> None:
        """Have nobody else change whose turn it is among the keys of these copies until this transaction ends."""
        await cursor.execute(
            "select distinct key from message where queue = %s and number = any(%s) and key is not null", (queue, list(numbers))
        )
        await self._lock(cursor, queue, [str(row[0]) for row in await cursor.fetchall()])

    async def _lock_keys_at(self, cursor: Cursor, queue: int, places: Sequence[int]) -> None:
        await cursor.execute("select distinct key from message where place = any(%s) and key is not null", (list(places),))
        await self._lock(cursor, queue, [str(row[0]) for row in await cursor.fetchall()])

    async def _lock(self, cursor: Cursor, queue: int, keys: Sequence[str]) -> None:
        for key in sorted(keys):
            await cursor.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (queue, key))

    async def earlier(self, queue: str, message_ids: Sequence[str]) -> Mapping[str, tuple[int, str | None]]:
        async def work(cursor: Cursor) -> dict[str, tuple[int, str | None]]:
            known = await self._queue(cursor, queue)
            await cursor.execute(
                "select message_id, attempt, note from attempt where queue = %s and message_id = any(%s)", (known, list(message_ids))
            )
            return {str(message_id): (int(attempt), note) for message_id, attempt, note in await cursor.fetchall()}

        return await self._database.run(work, writes=False)

    async def blame(self, marks: Sequence[int]) -> None:
        """Count a death for each of these marks."""

        async def work(cursor: Cursor) -> None:
            await cursor.executemany(
                "insert into death (mark, deaths) values (%s, 1) on conflict (mark) do update"
                " set deaths = death.deaths + 1, at = now_seconds()",
                [(mark,) for mark in sorted(marks)],
            )

        await self._database.run(work)

    async def deaths(self, marks: Sequence[int]) -> Mapping[int, int]:
        async def work(cursor: Cursor) -> dict[int, int]:
            await cursor.execute("select mark, deaths from death where mark = any(%s)", (list(marks),))
            return {int(mark): int(deaths) for mark, deaths in await cursor.fetchall()}

        return await self._database.run(work, writes=False)

    async def lose(self, held: Sequence[Lent]) -> None:
        session = await self._presence.number()

        async def work(cursor: Cursor) -> None:
            await cursor.executemany(
                "update message set state = 1, ticketed = true, session = null where number = %s and ticket = %s and loan = %s"
                " and session = %s and state = 2",
                [(lent.number, lent.ticket, lent.loan, session) for lent in sorted(held, key=lambda lent: lent.number)],
            )

        await self._database.run(work)

    # --- ending

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
            await self._lock_keys(cursor, self._routes.queue(queue).id, mine)

    async def _end(self, cursor: Cursor, ending: Ending, session: int) -> tuple[Ended, list[Ticket]]:
        queue = self._routes.queue(ending.queue).id
        row: Row | None = None
        if ending.copy is not None:
            row = (await self._rows(cursor, queue, [ending.copy.number])).get(ending.copy.number)
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
        """Give a version if others may be merged into what comes back, because nobody can have begun it."""
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
        await cursor.execute(_DELAY, (queue, message_id, ending.after, attempt, flags, ending.note, _encode(ending.envelope)))
        return Ended()

    async def _bury(self, cursor: Cursor, ending: Ending, queue: int, row: Row | None) -> tuple[Ended, list[Ticket]]:
        message_id = ending.envelope.id
        await cursor.execute("select at, attempt, error from failure where queue = %s and message_id = %s order by at", (queue, message_id))
        history = _encode(await cursor.fetchall())
        await cursor.execute("delete from death where mark = %s", (mark_of(ending.queue, message_id),))
        flags = 0 if row is None else row.flags & (TRACKED | UNIQUE | MERGES)
        values = (queue, 0 if row is None else row.rank, message_id, ending.attempt, flags, None if row is None else row.key)
        await cursor.execute(_BURY, (*values, ending.reason, ending.text, history, _encode(ending.envelope)))
        if ending.kept or row is None or row.flags & HISTORY:
            await self._forget_attempts(cursor, queue, message_id)
        if row is None:
            return Ended(), []
        await cursor.execute("delete from message where place = %s", (row.place,))
        error = f"{ending.reason}: {_last_line(ending.text)}" if ending.text else ending.reason
        await self._let_go(cursor, row, "dead", None, error)
        return Ended(), await self._free_key(cursor, ending.queue, queue, row)

    async def _let_go(self, cursor: Cursor, row: Row, state: str, result: bytes | None, error: str | None) -> None:
        if row.flags & UNIQUE:
            await cursor.execute("delete from unique_key where message_id = %s and until is null", (row.message_id,))
        if row.flags & TRACKED:
            await cursor.execute(
                "with ended as (update tracked set state = %s, result = %s, error = %s, at = now_seconds()"
                " where message_id = %s or into_id = %s returning message_id) select pg_notify('noria_ended', message_id) from ended",
                (state, result, error, row.message_id, row.message_id),
            )

    async def _forget_attempts(self, cursor: Cursor, queue: int, message_id: str) -> None:
        await cursor.execute("delete from attempt where queue = %s and message_id = %s", (queue, message_id))
        await cursor.execute("delete from failure where queue = %s and message_id = %s", (queue, message_id))

    async def _free_key(self, cursor: Cursor, name: str, queue: int, row: Row) -> list[Ticket]:
        """Give the turn of a key to the next in line, and the ticket for it if none waits in the broker."""
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
        return [Ticket(int(number), "", name, -int(rank), _decode(envelope), int(sending) + 1)]

    # --- tickets

    async def promote(self) -> tuple[list[Ticket], float | None]:
        """Make ready what is due; give its tickets, and in how many seconds the next is due."""

        async def work(cursor: Cursor) -> tuple[list[Ticket], float | None]:
            await self._routes.refresh(cursor)
            await cursor.execute(_PROMOTE, (_PROMOTED_AT_ONCE,))
            tickets = self._again(await cursor.fetchall())
            await cursor.execute("select min(due) - now_seconds() from message where state = 0")
            row = await cursor.fetchone()
            return tickets, None if row is None or row[0] is None else float(row[0])

        return await self._database.run(work)

    async def unsent(self) -> list[Ticket]:
        """Give tickets that were not seen confirmed for a while: who was to send them may be gone."""

        async def work(cursor: Cursor) -> list[Ticket]:
            await self._routes.refresh(cursor)
            await cursor.execute(_UNSENT, (_UNSENT_AFTER, _PROMOTED_AT_ONCE))
            return self._again(await cursor.fetchall())

        return await self._database.run(work)

    def _again(self, rows: Sequence[tuple[Any, ...]]) -> list[Ticket]:
        groups: dict[tuple[int, str | None, int], list[tuple[Any, ...]]] = {}
        for row in sorted(rows, key=lambda row: row[6]):
            groups.setdefault((row[0], row[3], row[7]), []).append(row)
        tickets: list[Ticket] = []
        for (number, exchange, sending), copies in groups.items():
            names = [self._routes.names[row[1]] for row in copies if row[1] in self._routes.names]
            _, _, rank, _, routing_key, envelope, _, _ = copies[0]
            tickets += tickets_of(number, exchange or "", routing_key or "", -int(rank), _decode(envelope), names, sending)
        return tickets

    async def confirm(self, sendings: Sequence[tuple[int, int]]) -> None:
        """Hear that the broker has these tickets, each by its number and which sending it was."""

        async def work(cursor: Cursor) -> None:
            values = [number for number, _ in sendings], [sending for _, sending in sendings]
            await cursor.execute(_CONFIRM, values)
            await cursor.execute(_CONFIRM_LONE, values)

        await self._database.run(work)

    async def reticket(self, queue: str) -> None:
        """Have all that is ready given tickets again: those that were in the broker may be gone."""

        async def work(cursor: Cursor) -> None:
            known = await self._queue(cursor, queue)
            await cursor.execute(
                "update message set ticketed = true, sent = false, sending = sending + 1, stored_at = 0 where queue = %s and state = 1",
                (known,),
            )

        await self._database.run(work)

    # --- looking

    async def counts(self, queues: Sequence[str]) -> Mapping[str, Counts]:
        """Count the copies of queues. Raises `NotFound`."""

        async def work(cursor: Cursor) -> dict[str, Counts]:
            await self._routes.refresh(cursor)
            known = {self._routes.queue(name).id: name for name in queues}
            await cursor.execute("select queue, count(*) from dead where queue = any(%s) group by queue", (list(known),))
            dead = {int(queue): int(count) for queue, count in await cursor.fetchall()}
            await cursor.execute(_COUNT, (list(known),))
            counted = {int(row[0]): row[1:] for row in await cursor.fetchall()}
            found: dict[str, Counts] = {}
            for identity, name in known.items():
                ready, running, lost, delayed, tickets = counted.get(identity, (0, 0, 0, 0, 0))
                found[name] = Counts(ready, running, lost, delayed, dead.get(identity, 0), tickets)
            return found

        return await self._database.run(work, writes=False)

    async def peek(self, queue: str, state: str, limit: int) -> list[tuple[int, int, Envelope]]:
        """Show copies of a queue in a state, each with its place, attempt and envelope."""
        wanted = {"ready": READY, "running": RUNNING, "delayed": DELAYED}[state]
        order: LiteralString = "due, place" if wanted == DELAYED else "rank, place"

        async def work(cursor: Cursor) -> list[tuple[int, int, Envelope]]:
            known = await self._queue(cursor, queue)
            await cursor.execute(
                "select place, attempt, envelope from message where queue = %s and state = %s order by " + order + " limit %s",
                (known, wanted, limit),
            )
            return [(int(place), int(attempt), _decode(envelope)) for place, attempt, envelope in await cursor.fetchall()]

        return await self._database.run(work, writes=False)

    async def purge(self, queue: str) -> int:
        """Delete the copies of a queue that are ready or delayed, and say how many; the caller purges the broker."""

        async def work(cursor: Cursor) -> int:
            known = await self._queue(cursor, queue)
            await cursor.execute(_PURGE, {"queue": known})
            row = await cursor.fetchone()
            assert row is not None
            return int(row[0])

        return await self._database.run(work)

    async def _queue(self, cursor: Cursor, name: str) -> int:
        await self._routes.refresh(cursor)
        return self._routes.queue(name).id


def _last_line(error: str) -> str:
    """Give what a traceback says: those who ask for a result need not see our source."""
    return error.strip().rsplit("\n", 1)[-1]
