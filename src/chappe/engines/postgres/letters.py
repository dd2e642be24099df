"""Dead letters: listed, shown, edited, retried and discarded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import msgspec

from chappe.engines.contract.letters import Letter
from chappe.engines.postgres import lines
from chappe.engines.postgres.database import Cursor, Database
from chappe.engines.postgres.routes import Routes
from chappe.engines.postgres.rows import decode, encode
from chappe.engines.postgres.storing import TELL
from chappe.errors import NotFound, Rejected

_MOST: Final = 1000
_COLUMNS: Final[LiteralString] = "d.number, q.name, d.reason, d.error, d.attempts, d.died_at, d.history, d.deaths, d.envelope"
_ALL: Final[LiteralString] = (
    "select " + _COLUMNS + " from dead d join queue q on q.id = d.queue where d.number > %s order by d.number limit %s"
)
_OF_QUEUE: Final[LiteralString] = (
    "select " + _COLUMNS + " from dead d join queue q on q.id = d.queue where d.queue = %s and d.number > %s order by d.number limit %s"
)  # two of them: a plan for both, once it is prepared, would pass over all letters of other queues
_FAILING: Final = """
    select m.place, q.name, '', f.error, m.attempt, f.at, '[]'::jsonb, 0, m.envelope from message m join queue q on q.id = m.queue
    join lateral (
        select error, at from failure l where l.queue = m.queue and l.message_id = m.message_id order by at desc, l.attempt desc limit 1
    ) f on true where m.flags & 4 > 0 and m.place > %s order by m.place limit %s
"""
_ONE: Final[LiteralString] = "select " + _COLUMNS + " from dead d join queue q on q.id = d.queue where d.number = %s"
_TAKEN: Final = """
    select d.number, d.unique_name, coalesce(u.message_id, first.message_id) from dead d
    left join unique_key u on u.name = d.unique_name and (u.until is null or u.until > now_seconds())
    left join lateral (
        select message_id from dead o where o.unique_name = d.unique_name and o.number < d.number and o.number = any(%(numbers)s) limit 1
    ) first on true
    where d.number = any(%(numbers)s) and d.unique_name is not null and coalesce(u.message_id, first.message_id) is not null limit 1
"""
_RETRY: Final[LiteralString] = """
    with back as (delete from dead where number = any(%(numbers)s::bigint[]) returning *),
    unique_again as (insert into unique_key select unique_name, message_id, null from back where unique_name is not null),
    forgotten as (delete from failure f using back b where f.queue = b.queue and f.message_id = b.message_id),
    alive as (
        update tracked t set state = 'ready', error = null from back b
        where b.flags & 1 > 0 and (t.message_id = b.message_id or t.into_id = b.message_id)
    ),
    sorted as (select * from back order by array_position(%(numbers)s::bigint[], number)),
    counted as (insert into tally (queue, published) select queue, count(*) from back group by queue)
    insert into message (queue, rank, state, message_id, flags, key, tenant, envelope)
    select queue, rank, case when key is null then 1 else 2 end, message_id, flags, key,
        case when (select fair from queue where id = sorted.queue) then coalesce(tenant, '') end, envelope from sorted
    returning queue, key, place, rank
"""
_DISCARD: Final[LiteralString] = """
    with gone as (delete from dead where number = any(%s) returning queue, message_id),
    unmarked as (delete from mark m using gone where m.message_id = gone.message_id),
    forgotten as (delete from failure f using gone g where f.queue = g.queue and f.message_id = g.message_id)
    select count(*) from gone
"""


class Letters:
    """The store's side of dead letters."""

    _database: Database
    _routes: Routes

    async def letters(self, queue: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        most = max(0, min(limit, _MOST))
        of_queue = () if queue is None else (await self._routes.known(self._database, queue),)
        rows = await self._database.once(_OF_QUEUE if of_queue else _ALL, (*of_queue, after, most), repeatable=True)
        return [_shown(row) for row in rows]

    async def failing(self, *, after: int = 0, limit: int = 100) -> list[Letter]:
        return [_shown(row) for row in await self._database.once(_FAILING, (after, max(0, min(limit, _MOST))), repeatable=True)]

    async def letter(self, number: int) -> Letter:
        rows = await self._database.once(_ONE, (number,), repeatable=True)
        if not rows:
            raise NotFound.letter(number)
        return _shown(rows[0])

    async def retry_letters(self, numbers: Sequence[int]) -> int:
        async def work(cursor: Cursor) -> int:
            await cursor.execute(_TAKEN, {"numbers": list(numbers)})
            for number, name, other in await cursor.fetchall():
                raise Rejected(
                    f'dead letter {number} cannot be retried beside message {other}, which has the same unique key "{name}"; '
                    "retry it when that one has ended, or discard it"
                )
            await cursor.execute(_RETRY, {"numbers": list(numbers)})
            rows = await cursor.fetchall()
            await lines.join(cursor, [(queue, key, place, rank) for queue, key, place, rank in rows if key is not None])
            await cursor.execute(TELL, (sorted({int(row[0]) for row in rows}),))
            return len(rows)

        return await self._database.run(work)

    async def edit_letter(self, number: int, body: bytes) -> None:
        async def work(cursor: Cursor) -> None:
            await cursor.execute("select envelope from dead where number = %s for update", (number,))
            row = await cursor.fetchone()
            if row is None:
                raise NotFound.letter(number)
            changed = msgspec.structs.replace(decode(row[0]), body=body)
            await cursor.execute("update dead set envelope = %s where number = %s", (encode(changed), number))

        await self._database.run(work)

    async def discard_letters(self, numbers: Sequence[int]) -> int:
        ((count,),) = await self._database.once(_DISCARD, (list(numbers),))
        return int(count)


def _shown(row: tuple[Any, ...]) -> Letter:
    number, queue, reason, error, attempts, died_at, history, deaths, envelope = row
    told = tuple((float(at), int(attempt), str(text)) for at, attempt, text in history)
    return Letter(number, queue, reason, error, attempts, died_at, decode(envelope), told, deaths)
