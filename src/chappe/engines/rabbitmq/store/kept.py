"""What the broker beside this store needs of it: copies, topology, sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

from chappe.engines.rabbitmq.outbox import Ticket
from chappe.engines.rabbitmq.store.contents import Contents
from chappe.engines.rabbitmq.store.database import Cursor, Database
from chappe.engines.rabbitmq.store.ending import Endings
from chappe.engines.rabbitmq.store.intake import Intake
from chappe.engines.rabbitmq.store.lending import Lending
from chappe.engines.rabbitmq.store.lone import Lone
from chappe.engines.rabbitmq.store.preflight import preflight
from chappe.engines.rabbitmq.store.presence import LIVES, Presence
from chappe.engines.rabbitmq.store.routes import Routes
from chappe.engines.rabbitmq.store.tickets import Tickets
from chappe.messages.envelope import Publication, Receipt
from chappe.messages.finding import Finding
from chappe.messages.topology import Topology

_CONSUMERS: Final[LiteralString] = (
    "select number from session where consumes and exists (select 1 from pg_locks where " + LIVES + " and objid::bigint = number)"
)


_PRUNED_AT_ONCE: Final = 5_000
_PRUNED: Final[dict[LiteralString, tuple[LiteralString, LiteralString]]] = {  # of each table: its key, and what is old
    "tracked": ("message_id", "state in ('done', 'dead') and at < now_seconds() - 86400"),
    "idempotency": ("name", "until < now_seconds()"),
    "unique_key": ("name", "until < now_seconds()"),
    "attempt": ("message_id", "at < now_seconds() - 30 * 86400"),
    "death": ("mark", "at < now_seconds() - 30 * 86400"),
}


class Kept:
    """What a broker asks of the store beside it, of one session."""

    def __init__(self, database: Database, routes: Routes, presence: Presence) -> None:
        self._database = database
        self._routes = routes
        self._presence = presence
        self._intake = Intake(routes)
        self._lone = Lone(database, routes)
        lending, tickets, contents = Lending(database, routes, presence), Tickets(database, routes), Contents(database, routes)
        self.present, self.lose = lending.present, lending.lose
        self.earlier, self.blame, self.deaths = lending.earlier, lending.blame, lending.deaths
        self.settle = Endings(database, routes, self._intake, presence).settle
        self.promote, self.unsent, self.confirm, self.reticket = tickets.promote, tickets.unsent, tickets.confirm, tickets.reticket
        self.counts, self.peek, self.purge = contents.counts, contents.peek, contents.purge

    async def publish(self, publications: Sequence[Publication]) -> tuple[list[Receipt], list[Ticket]]:
        if len(publications) == 1 and (stored := await self._lone.publish(publications[0])) is not None:
            return stored
        return await self._database.run(lambda cursor: self._intake.publish(cursor, publications))

    async def declare(self, topology: Topology) -> bool:
        return await self._database.run(lambda cursor: self._routes.declare(cursor, topology))

    async def remove(self, queue: str) -> None:
        await self._database.run(lambda cursor: self._routes.remove(cursor, queue))

    async def lanes(self, queue: str, *, fresh: bool = False) -> int:
        if fresh or queue not in self._routes.queues:
            await self._database.run(self._routes.refresh, writes=False)
        return self._routes.queue(queue).lanes

    async def takers(self, exchange: str, routing_key: str, *, fresh: bool = False) -> Sequence[str]:
        if fresh:
            await self._database.run(self._routes.refresh, writes=False)
        return [known.queue.name for known in self._routes.takers(exchange, routing_key)]

    async def prune(self) -> None:
        async def work(cursor: Cursor) -> None:
            await cursor.execute("select pg_try_advisory_xact_lock(hashtext('prune'), 0)")
            row = await cursor.fetchone()
            if row is None or not row[0]:
                return  # somebody else does it
            for table, (key, old) in _PRUNED.items():
                await cursor.execute(
                    "delete from " + table + " where " + key + " in (select " + key + " from " + table + " where " + old + " limit %s)",
                    (_PRUNED_AT_ONCE,),
                )

        await self._database.run(work)

    async def queues(self) -> Sequence[str]:
        await self._database.run(self._routes.refresh, writes=False)
        return list(self._routes.queues)

    async def preflight(self) -> list[Finding]:
        return await preflight(self._database)

    async def session(self) -> int:
        return await self._presence.number()

    async def consume(self) -> None:
        await self._presence.consume()

    async def consumers(self) -> Sequence[int]:
        async def work(cursor: Cursor) -> list[int]:
            await cursor.execute(_CONSUMERS)
            return [int(row[0]) for row in await cursor.fetchall()]

        return await self._database.run(work, writes=False)
