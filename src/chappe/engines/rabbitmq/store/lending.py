"""The lending of copies by their tickets, and what is known of messages that came again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from chappe.engines.rabbitmq.outbox import Lent, Presented
from chappe.engines.rabbitmq.store.database import Cursor, Database
from chappe.engines.rabbitmq.store.envelopes import decode
from chappe.engines.rabbitmq.store.intake import MERGES, READY, RETURNED, RUNNING
from chappe.engines.rabbitmq.store.presence import Presence
from chappe.engines.rabbitmq.store.routes import Routes
from chappe.engines.rabbitmq.store.rows import COPY, Row, lock_keys, lock_keys_at, rows_of

_FIRST: Final = """
    select place from message where queue = %(queue)s and state = 1 and ticketed and sign(rank) = %(sign)s
        and (sent or number = any(%(numbers)s))
    order by rank, place limit %(limit)s for update
"""


class Lending:
    """Lends to one session; each verb is one transaction."""

    def __init__(self, database: Database, routes: Routes, presence: Presence) -> None:
        self._database = database
        self._routes = routes
        self._presence = presence

    async def present(self, queue: str, sign: int, tickets: Sequence[Presented]) -> list[Lent | None]:
        session = await self._presence.number()

        async def work(cursor: Cursor) -> list[Lent | None]:
            known = await self._routes.number(cursor, queue)
            if sign == 0:
                await lock_keys(cursor, known, [t.number for t in tickets])
                rows = await rows_of(cursor, known, [t.number for t in tickets])
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
                lent[-1] = Lent(row.number, ticket.ticket, row.loan + 1, row.attempt + 1, row.note, decode(row.envelope))
                await self._lend(cursor, known, row, session, ticket.ticket)
            if dropped:
                await cursor.execute("update message set ticketed = false, sent = true where place = any(%s)", (dropped,))
            return lent

        return await self._database.run(work)

    async def _first(self, cursor: Cursor, queue: int, sign: int, tickets: Sequence[Presented]) -> list[Row | None]:
        """Return for each ticket what it lent before, or else the first copies of this sign: there are as many as tickets."""
        await cursor.execute("select pg_advisory_xact_lock(%s, %s)", (queue, sign))  # two who look at once would find the same
        await cursor.execute(
            "select " + COPY + " from message where queue = %s and state = 2 and ticket = any(%s) for update",
            (queue, [ticket.ticket for ticket in tickets]),
        )
        again = {row.ticket: row for row in [Row(*row) for row in await cursor.fetchall()]}
        wanted = sum(1 for ticket in tickets if ticket.ticket not in again)
        numbers = [ticket.number for ticket in tickets]
        await cursor.execute(_FIRST, {"queue": queue, "sign": -sign, "limit": wanted, "numbers": numbers})
        places = [int(row[0]) for row in await cursor.fetchall()]
        await lock_keys_at(cursor, queue, places)
        await cursor.execute("select " + COPY + " from message where place = any(%s) order by rank, place for update", (places,))
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
        """Return for each key the number of the copy that may run, or runs."""
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

    async def earlier(self, queue: str, message_ids: Sequence[str]) -> Mapping[str, tuple[int, str | None]]:
        async def work(cursor: Cursor) -> dict[str, tuple[int, str | None]]:
            known = await self._routes.number(cursor, queue)
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
