"""Dead letters: listed, shown, edited, retried and discarded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import msgspec

from chappe.engines.contract.letters import Letter
from chappe.engines.rabbitmq.outbox import Ticket
from chappe.engines.rabbitmq.store.database import Cursor, Database
from chappe.engines.rabbitmq.store.envelopes import decode, decode_history, encode
from chappe.engines.rabbitmq.store.intake import MERGES
from chappe.engines.rabbitmq.store.routes import Routes
from chappe.errors import NotFound

_MOST: Final = 1000
_COLUMNS: Final[LiteralString] = "d.number, q.name, d.reason, d.error, d.attempts, d.died_at, d.history, d.envelope"
_READY: Final = """
    insert into message (number, queue, rank, message_id, state, flags, key, ticketed, sent, envelope)
    values (nextval('publication'), %s, %s, %s, 1, %s, %s, true, false, %s) returning number
"""


class Letters:
    """The dead letters of all queues."""

    def __init__(self, database: Database, routes: Routes) -> None:
        self._database = database
        self._routes = routes

    async def list(self, queue: str | None, after: int, limit: int) -> list[Letter]:
        async def work(cursor: Cursor) -> list[Letter]:
            await self._routes.refresh(cursor)
            identity = None if queue is None else self._routes.queue(queue).id
            await cursor.execute(
                "select " + _COLUMNS + " from dead d join queue q on q.id = d.queue where d.number > %s"
                " and (%s::integer is null or d.queue = %s) order by d.number limit %s",
                (after, identity, identity, max(0, min(limit, _MOST))),
            )
            return [_shown(row) for row in await cursor.fetchall()]

        return await self._database.run(work, writes=False)

    async def show(self, number: int) -> Letter:
        async def work(cursor: Cursor) -> Letter:
            await cursor.execute("select " + _COLUMNS + " from dead d join queue q on q.id = d.queue where d.number = %s", (number,))
            row = await cursor.fetchone()
            if row is None:
                raise NotFound.letter(number)
            return _shown(row)

        return await self._database.run(work, writes=False)

    async def retry(self, numbers: Sequence[int]) -> tuple[int, Sequence[Ticket]]:
        async def work(cursor: Cursor) -> tuple[int, Sequence[Ticket]]:
            await self._routes.refresh(cursor)
            tickets = list[Ticket]()
            for number in numbers:
                await cursor.execute(
                    "delete from dead where number = %s returning queue, rank, message_id, flags, key, envelope", (number,)
                )
                row = await cursor.fetchone()
                if row is None:
                    continue
                queue, rank, message_id, flags, key, envelope = row
                await cursor.execute(_READY, (queue, rank, message_id, int(flags) & ~MERGES, key, envelope))
                made = await cursor.fetchone()
                assert made is not None
                await cursor.execute(
                    "update tracked set state = 'ready', error = null where message_id = %s or into_id = %s", (message_id, message_id)
                )
                tickets.append(Ticket(int(made[0]), "", self._routes.names[int(queue)], -int(rank), decode(envelope)))
            return len(tickets), tickets

        return await self._database.run(work)

    async def edit(self, number: int, body: bytes) -> None:
        async def work(cursor: Cursor) -> None:
            await cursor.execute("select envelope from dead where number = %s for update", (number,))
            row = await cursor.fetchone()
            if row is None:
                raise NotFound.letter(number)
            changed = msgspec.structs.replace(decode(row[0]), body=body)
            await cursor.execute("update dead set envelope = %s where number = %s", (encode(changed), number))

        await self._database.run(work)

    async def discard(self, numbers: Sequence[int]) -> int:
        async def work(cursor: Cursor) -> int:
            await cursor.execute(
                "with gone as (delete from dead where number = any(%s) returning message_id),"
                " unmarked as (delete from mark m using gone where m.message_id = gone.message_id) select count(*) from gone",
                (list(numbers) if numbers else [],),
            )
            row = await cursor.fetchone()
            return 0 if row is None else int(row[0])

        return await self._database.run(work)


def _shown(row: tuple[Any, ...]) -> Letter:
    number, queue, reason, error, attempts, died_at, history, envelope = row
    return Letter(number, queue, reason, error, attempts, died_at, decode(envelope), decode_history(history))
