"""The way in: publications are routed, and stored in one journey to the server where they ask for little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from chappe.engines.postgres.database import Cursor, Database
from chappe.engines.postgres.journeys import Masks, plain, takers_of
from chappe.engines.postgres.routes import Known, Routes
from chappe.engines.postgres.storing import Storing
from chappe.errors import Unroutable
from chappe.messages.envelope import Publication, Receipt

_ALLOT: Final = "select now_seconds(), array(select nextval('place') from generate_series(1, %s)), version from topology"


class MergeFirst(Exception):
    """Takes a transaction back in which something must be merged before; it never leaves this room."""

    def __init__(self, receipts: Iterable[Receipt]) -> None:
        self.receipts = list(receipts)


class Intake:
    """Stores publications, alone or inside the transactions of others."""

    def __init__(self, database: Database, routes: Routes) -> None:
        self._database = database
        self._routes = routes
        self._masks = Masks(routes)

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        """See `Broker.publish`."""
        if not publications:
            return []
        with self._database.one_deadline():
            stored = await self._publish_plain(publications) or await self._masks.publish(publications, self._database.together)
            return stored or await self._database.run(lambda cursor: self.store(cursor, publications))

    # --- in one journey

    async def _publish_plain(self, publications: Sequence[Publication]) -> list[Receipt] | None:
        """Store publications that ask for nothing in one journey, if they all are, and the topology is as it is known."""
        taken = takers_of(self._routes, publications)
        statement = None if taken is None else plain(self._routes, publications, taken)
        if statement is None:
            return None
        rows = await self._database.once(*statement)
        return [Receipt(p.envelope.id) for p in publications] if rows else None

    # --- in a transaction

    async def store_whole(self, cursor: Cursor, publications: Sequence[Publication]) -> None:
        """Store publications. Raises `MergeFirst`, which takes the transaction back, where some of them are *pending*."""
        receipts = await self.store(cursor, publications)
        if any(r.outcome == "pending" for r in receipts):
            mine = {r.id for r in receipts if r.outcome == "stored"}
            raise MergeFirst(
                Receipt(p.envelope.id, "pending") if r.outcome == "pending" and r.id in mine else r
                for p, r in zip(publications, receipts, strict=True)
            )

    async def store(self, cursor: Cursor, publications: Sequence[Publication]) -> list[Receipt]:
        """Store publications, all or none, but for those that are *duplicate* or *pending*."""
        if not publications:
            return []
        most = len(publications) * max(1, len(self._routes.queues))
        await cursor.execute(_ALLOT, (min(most, 4 * len(publications)),))
        now, places, version = (await cursor.fetchone()) or (0.0, [], 0)
        if version != self._routes.version:
            await self._routes.read(cursor, int(version))
        taken = [self._takers(p) for p in publications]
        needed = sum(len(queues) for queues in taken)
        if needed > len(places):
            await cursor.execute(_ALLOT, (needed,))
            places = ((await cursor.fetchone()) or (0.0, [], 0))[1]
        return await Storing(cursor, self._routes, publications, taken, float(now), [int(place) for place in places]).store()

    def _takers(self, p: Publication) -> list[Known]:
        queues = self._routes.takers(p.exchange, p.routing_key)
        lasting = [known for known in queues if known.is_lasting]
        if len(lasting) > 1 and p.options is not None and p.options.merges:
            names = ", ".join(known.queue.name for known in lasting)
            raise Unroutable(f'"{p.routing_key}" goes to several queues ({names}): a message that merges can wait in one only')
        return queues
