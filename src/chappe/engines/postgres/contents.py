"""What there is of a queue: counted, shown, deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

from chappe.engines.contract.broker import Depth
from chappe.engines.contract.results import CANCELLED
from chappe.engines.postgres import counting, lines
from chappe.engines.postgres.database import Cursor, Database
from chappe.engines.postgres.endings import TIDY
from chappe.engines.postgres.routes import Routes
from chappe.engines.postgres.storing import TELL
from chappe.engines.postgres.tending import Tending
from chappe.errors import NotFound
from chappe.messages.envelope import sent_at

_LOOK: Final = """
    select q.name, q.paused, now_seconds(), next.due, next.message_id, coalesce(t.published, 0)::bigint, coalesce(t.done, 0)::bigint,
        coalesce(t.retried, 0)::bigint, coalesce(t.died, 0)::bigint
    from queue q left join lateral (
        select due, message_id from message where queue = q.id and state = 1 order by rank, place limit 1
    ) next on true left join (
        select queue, sum(published) as published, sum(done) as done, sum(retried) as retried, sum(died) as died from tally group by queue
    ) t on t.queue = q.id
"""
_PASSED: Final = "select exchange, sum(passed)::bigint, sum(published)::bigint from tally where exchange <> '' group by exchange"
# Those that have `ended` before they ran; `why` is told of them, and `state` is dead.
FORGET: Final[LiteralString] = (
    """
    asked as (select place, null::bytea as result, %(why)s::text as error from ended),
    unmarked as (delete from mark m using ended e where m.message_id = e.message_id),
    """
    + TIDY
)
_PURGE: Final[LiteralString] = (
    """
    with ended as (delete from message where queue = %(queue)s returning place, queue, key, message_id, flags),
    lines as (delete from line l using ended e where l.queue = e.queue and l.key = e.key and l.head = e.place),
    """
    + FORGET
    + " select (select count(*) from ended), (select count(*) from heard)"
)

_CANCEL: Final[LiteralString] = (
    """
    with ended as (
        delete from message where message_id collate "C" = %(id)s returning place, queue, key, message_id, flags, state
    ),
    """
    + FORGET
    + " select queue, key, case state when 0 then 'delayed' else 'ready' end, (select count(*) from heard) from ended"
)
_TELL_CANCELLED: Final = "select pg_notify('chappe_cancelled', place::text) from running where message_id = %s"


class Summary(NamedTuple):
    """Whether a queue is paused, how long its next message has waited, and how many were ever published, done, retried and dead."""

    paused: bool = False
    oldest: float | None = None
    totals: tuple[int, int, int, int] = (0, 0, 0, 0)


class Contents:
    """What an operator asks of messages; each verb is one transaction, after what dead sessions held is taken back: that is ready again."""

    database: Database
    routes: Routes
    tending: Tending

    async def depth(self, queue: str) -> Depth:
        async def work(cursor: Cursor) -> Depth:
            known = await self.routes.find(cursor, queue)
            return (await counting.count(cursor, [known.id], most=None))[known.id][0]

        await self.tending.take_back()
        return await self.database.run(work, writes=False)

    async def summaries(self) -> dict[str, Summary]:
        """Return what is known of each queue besides its depth."""
        return {
            name: Summary(paused, max(0.0, round(now - at, 3)) if (at := due or sent_at(message_id or "")) else None, (p, d, r, x))
            for name, paused, now, due, message_id, p, d, r, x in await self.database.once(_LOOK, (), repeatable=True)
        }

    async def passed(self) -> dict[str, tuple[int, int]]:
        """Return how many messages were published to each exchange, and how many were delivered to queues."""
        rows = await self.database.once(_PASSED, (), repeatable=True)
        return {exchange: (published, delivered) for exchange, published, delivered in rows}

    async def count(self, queues: Sequence[str]) -> dict[str, tuple[Depth, bool]]:
        """Count the messages of queues as far as that costs little, and tell whether more is an estimate. Raises `NotFound`."""

        async def work(cursor: Cursor) -> dict[str, tuple[Depth, bool]]:
            known = {self.routes.queue(name).id: name for name in queues}
            return {known[number]: found for number, found in (await counting.count(cursor, list(known), most=counting.MOST)).items()}

        await self.tending.take_back()
        return await self.database.run(work, writes=False)

    async def cancel(self, message_id: str) -> str:
        """Remove a message where it waits, and tell who runs it. Raises `NotFound`."""

        async def work(cursor: Cursor) -> str | None:
            await cursor.execute(_TELL_CANCELLED, (message_id,))
            if await cursor.fetchall():
                return "running"
            await cursor.execute(_CANCEL, {"id": message_id, "why": CANCELLED, "state": "dead"})
            gone = await cursor.fetchall()
            if woken := await lines.leave(cursor, [(queue, key) for queue, key, *_ in gone if key is not None]):
                await cursor.execute(TELL, (woken,))
            return str(gone[0][2]) if gone else None

        await self.tending.take_back()
        state = await self.database.run(work)
        if state is None:
            raise NotFound(f"message {message_id} is neither waiting nor running: it has ended, or never was")
        return state

    async def purge(self, queue: str, *, delete: bool = False) -> int:
        """Delete what is ready or delayed, and the queue too if it is asked for, and say how many messages it were."""

        async def work(cursor: Cursor) -> int:
            known = await self.routes.find(cursor, queue)
            await cursor.execute(_PURGE, {"queue": known.id, "why": "purged", "state": "dead"})
            row = await cursor.fetchone()
            if delete:
                await self.routes.remove(cursor, queue)
            return 0 if row is None else int(row[0])

        await self.tending.take_back()
        return await self.database.run(work)
