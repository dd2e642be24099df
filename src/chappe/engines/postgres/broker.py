"""The broker contract kept by PostgreSQL, for any number of hosts at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from chappe.engines.contract.broker import Death
from chappe.engines.postgres.blame import Blame
from chappe.engines.postgres.consumer import Parts, PostgresConsumer
from chappe.engines.postgres.contents import Contents
from chappe.engines.postgres.database import Database
from chappe.engines.postgres.endings import Endings
from chappe.engines.postgres.intake import Intake
from chappe.engines.postgres.preflight import preflight
from chappe.engines.postgres.presence import Presence
from chappe.engines.postgres.routes import Routes
from chappe.engines.postgres.tending import Tending
from chappe.messages.envelope import Publication, Receipt
from chappe.messages.finding import Finding
from chappe.messages.topology import Queue, Topology


class PostgresBroker(Contents):
    """Speaks to one database over one connection, and over a second one from when it consumes."""

    def __init__(self, url: str, *, role: str = "client", deadline: float = 5.0, relay: str | None = None) -> None:
        """Prepare a broker inside a running event loop; it connects with its first verb.

        In the queue `relay` waits all that goes through exchanges: another broker routes and archives it.
        """
        self.database = Database(url, deadline=deadline)
        self.routes = Routes(relay)
        self.presence = Presence(self.database, role=role)
        self.intake = Intake(self.database, self.routes)
        self.tending = Tending(self.database, self.routes)
        self._endings = Endings(self.database, self.intake)
        self._blame = Blame(self.database)
        self._consumers: set[PostgresConsumer] = set()
        self._is_closed = False

    @property
    def info(self) -> dict[str, Any]:
        """What others see of this process."""
        return self.presence.info

    async def declare(self, topology: Topology) -> None:
        await self.declare_new(topology)

    async def declare_new(self, topology: Topology) -> bool:
        """Make them exist, and tell whether anything was new."""
        if self.routes.relay is not None:
            topology = Topology(topology.exchanges, (*topology.queues, Queue(self.routes.relay, origin="Chappe")))
        return await self.database.run(lambda cursor: self.routes.declare(cursor, topology))

    async def takers(self, exchange: str, routing_key: str, *, fresh: bool = False) -> list[str]:
        """Return the declared queues that take this routing key, or raise `Unroutable`; `fresh` looks at what others declared meanwhile."""
        if fresh or self.routes.version < 0:
            await self.database.run(self.routes.refresh, writes=False)
        return [known.queue.name for known in self.routes.takers(exchange, routing_key) if not known.relays]

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        receipts = await self.intake.publish(publications)
        if any(p.delay > 0 or self._is_passing(p) for p in publications):
            self.tending.begin()
        return receipts

    def _is_passing(self, p: Publication) -> bool:
        """Tell whether a publication went to a queue that goes with a session, which may be gone."""
        return bool(p.exchange) and any(known.owner is not None for known in self.routes.takers(p.exchange, p.routing_key))

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, prefetch: int, temporary: Sequence[Queue] = ()) -> AsyncGenerator[PostgresConsumer]:
        await self.database.run(self.routes.refresh, writes=False)
        for queue in queues:
            self.routes.queue(queue)
        await self.tending.take_back()
        self.tending.begin()
        parts = Parts(self.database, self.routes, self.presence, self._endings, self._blame, self.tending.take_back)
        consumer = PostgresConsumer(parts, queues, prefetch, temporary)
        self._consumers.add(consumer)
        try:
            await consumer.open()
            yield consumer
        finally:
            await consumer.close()
            self._consumers.discard(consumer)

    async def blame(self, death: Death) -> None:
        await self._blame.count(death)

    async def queues(self) -> list[str]:
        """Return the queues that were declared."""
        await self.database.run(self.routes.refresh, writes=False)
        return [name for name, known in self.routes.queues.items() if not known.relays]

    async def preflight(self) -> list[Finding]:
        return await preflight(self.database)

    async def close(self) -> None:
        """Close the connections; what consumers held is ready again."""
        if not self._is_closed:
            self._is_closed = True
            for consumer in list(self._consumers):
                await consumer.close()
            await self.tending.close()
            await self.presence.close()
            await self.database.close()
