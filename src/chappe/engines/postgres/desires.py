"""What operators want of the fleet, and acted on where it concerns a queue."""

from __future__ import annotations

from typing import Final

from chappe.engines.contract.fleet import PAUSED, QUEUE, TENANT, Desired
from chappe.engines.fairness import weight_of
from chappe.engines.postgres.database import Cursor, Database
from chappe.engines.postgres.routes import Routes
from chappe.engines.postgres.storing import TELL

_STORE: Final = "insert into desired (what, value, who) values (%s, %s, %s) returning number, what, value, who, at"
_WEIGH: Final = """
    insert into weight values (%s, coalesce(%s::text::float8, 1)) on conflict (tenant) do update set weight = excluded.weight
"""
_LATEST: Final = """
    select number, what, value, who, at from (select distinct on (what) * from desired order by what, number desc) latest
    where number > %s order by number limit %s
"""
_EVERY: Final = """
    select number, what, value, who, at from (select * from desired where number > %s order by number desc limit %s) latest order by number
"""


class Desires:
    """The store's side of what is wanted, which all hosts share."""

    _database: Database
    _routes: Routes

    async def desire(self, what: str, value: str | None, who: str) -> Desired:
        if what.startswith(TENANT) and value is not None:
            weight_of(value)

        async def work(cursor: Cursor) -> Desired:
            if what.startswith(QUEUE):
                known = await self._routes.find(cursor, what.removeprefix(QUEUE))
                await cursor.execute("update queue set paused = %s where id = %s", (value == PAUSED, known.id))
                await cursor.execute(TELL, ([known.id],))
            if what.startswith(TENANT):
                await cursor.execute(_WEIGH, (what.removeprefix(TENANT), value))
            await cursor.execute(_STORE, (what, value, who))
            row = await cursor.fetchone()
            assert row is not None
            return Desired(*row)

        return await self._database.run(work)

    async def desired(self, *, after: int = 0, every: bool = False, limit: int = 1000) -> list[Desired]:
        rows = await self._database.once(_EVERY if every else _LATEST, (after, max(0, min(limit, 1000))), repeatable=True)
        return [Desired(*row) for row in rows]
