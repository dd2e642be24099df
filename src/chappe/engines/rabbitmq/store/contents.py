"""What there is of a queue's copies: counted, shown, deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString

from chappe.engines.rabbitmq.outbox import Counts
from chappe.engines.rabbitmq.store.database import Cursor, Database
from chappe.engines.rabbitmq.store.envelopes import decode
from chappe.engines.rabbitmq.store.intake import DELAYED, READY, RUNNING
from chappe.engines.rabbitmq.store.presence import ALIVE
from chappe.engines.rabbitmq.store.routes import Routes
from chappe.messages.envelope import Envelope

_COUNT: Final[LiteralString] = (
    "select queue, count(*) filter (where state = 1), count(*) filter (where state = 2 and lives),"
    " count(*) filter (where state = 2 and not lives), count(*) filter (where state = 0), count(*) filter (where ticketed)"
    " from (select queue, state, ticketed, state <> 2 or " + ALIVE + " as lives from message where queue = any(%s)) found group by queue"
)
# What was remembered of copies that are `gone` before they ended, each with its message id, number, key and flags; `why` is told of them.
FORGET: Final[LiteralString] = """
    freed as (delete from held h using gone where h.queue = %(queue)s and h.key = gone.key and h.number = gone.number),
    unmarked as (delete from mark m using gone where m.message_id = gone.message_id),
    unique_again as (delete from unique_key u using gone
        where gone.flags & 2 > 0 and u.message_id = gone.message_id and u.until is null),
    forgiven as (delete from failure f using gone
        where gone.flags & 4 > 0 and f.queue = %(queue)s and f.message_id = gone.message_id),
    ended as (
        update tracked t set state = 'dead', error = %(why)s, at = now_seconds() from gone
        where gone.flags & 1 > 0 and (t.message_id = gone.message_id or t.into_id = gone.message_id) returning t.message_id
    ),
    told as (select pg_notify('chappe_ended', message_id) from ended)
"""
_PURGE: Final[LiteralString] = (
    """
    with gone as (
        delete from message where queue = %(queue)s and (state in (0, 1) or (state = 2 and not """
    + ALIVE
    + """))
        returning message_id, number, key, flags
    ),
    """
    + FORGET
    + " select (select count(*) from gone) + 0 * (select count(*) from told)"
)


class Contents:
    """What an operator asks of copies; each verb is one transaction."""

    def __init__(self, database: Database, routes: Routes) -> None:
        self._database = database
        self._routes = routes

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
            known = await self._routes.number(cursor, queue)
            await cursor.execute(
                "select place, attempt, envelope from message where queue = %s and state = %s order by " + order + " limit %s",
                (known, wanted, limit),
            )
            return [(int(place), int(attempt), decode(envelope)) for place, attempt, envelope in await cursor.fetchall()]

        return await self._database.run(work, writes=False)

    async def purge(self, queue: str) -> int:
        """Delete the copies of a queue that are ready or delayed, and say how many; the caller purges the broker."""

        async def work(cursor: Cursor) -> int:
            known = await self._routes.number(cursor, queue)
            await cursor.execute(_PURGE, {"queue": known, "why": "purged"})
            row = await cursor.fetchone()
            assert row is not None
            return int(row[0])

        return await self._database.run(work)
