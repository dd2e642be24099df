"""Which tickets are to be sent: of what became due, of what nobody saw confirmed, and of what may have lost its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from chappe.engines.rabbitmq.outbox import Ticket
from chappe.engines.rabbitmq.store.database import Cursor, Database
from chappe.engines.rabbitmq.store.envelopes import decode
from chappe.engines.rabbitmq.store.intake import tickets_of
from chappe.engines.rabbitmq.store.routes import Routes

_PROMOTED_AT_ONCE: Final = 1000
_UNSENT_AFTER: Final = 5.0  # seconds after which a ticket that nobody saw confirmed is sent again

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


class Tickets:
    """The tickets of all queues; each verb is one transaction."""

    def __init__(self, database: Database, routes: Routes) -> None:
        self._database = database
        self._routes = routes

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
        """Return tickets that were not seen confirmed for a while: who was to send them may be gone."""

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
            tickets += tickets_of(number, exchange or "", routing_key or "", -int(rank), decode(envelope), names, sending)
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
            known = await self._routes.number(cursor, queue)
            await cursor.execute(
                "update message set ticketed = true, sent = false, sending = sending + 1, stored_at = 0 where queue = %s and state = 1",
                (known,),
            )

        await self._database.run(work)
