"""What somebody must do for all: make ready what is due, take back what dead sessions held, and forget what is old."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final, LiteralString

from chappe.engines.postgres import budgets, lines
from chappe.engines.postgres.budgets import NEXT
from chappe.engines.postgres.database import Cursor, Database, Row
from chappe.engines.postgres.presence import LIVES
from chappe.engines.postgres.routes import Routes
from chappe.engines.postgres.storing import TELL
from chappe.errors import BrokerError

log = logging.getLogger("chappe.postgres")

_TURN: Final = 0.25  # seconds between two looks
_COMES_BACK: Final = 0.4  # seconds in which a session may connect again, after a restart of the server for instance, and keep what it holds
_PRUNE: Final = 60.0  # seconds
_SWEEP: Final = 10.0  # seconds
_AT_ONCE: Final = 1000
_TENDING: Final = "select pg_try_advisory_xact_lock(hashtext('chappe tends'), hashtext(current_schema()))"
_LOOK: Final[LiteralString] = (
    "select exists (select 1 from message where state = 0 and due <= now_seconds()) or coalesce(" + NEXT + " <= now_seconds(), false),"
    " array(select number from session where not exists (select 1 from pg_locks where " + LIVES + " and objid::bigint = number)),"
    " (select least((select min(due) from message where state = 0), " + NEXT + ") - now_seconds())"
)
# A session that was taken for dead, and forgotten, may have claimed something before it heard that.
_FORGOTTEN: Final[LiteralString] = """
    select distinct session from running r where not exists (select 1 from session s where s.number = r.session)
"""
# What has the turn of its key, and waits for another attempt, keeps its place; all else begins anew behind what is there.
_PROMOTE: Final[LiteralString] = """
    with due as (
        select place, queue, rank, key, flags, budget from message where state = 0 and due <= now_seconds() order by due, place
        limit %s for update skip locked
    ),
    turns as (
        select due.*, l.head is not null as has_turn,
            case when l.head is null and budget is null then nextval('place') else due.place end as later
        from due left join line l on l.queue = due.queue and l.key = due.key and l.head = due.place
    )
    update message m set place = t.later, due = case when m.budget is null then m.due end, budget = null,
        state = case when t.flags & 16 > 0 then 3 when t.key is null or t.has_turn then 1 else 2 end
    from turns t where m.place = t.place
    returning m.queue, m.key, m.place, m.rank, m.state
"""
_TAKE_BACK: Final[LiteralString] = """
    with back as (delete from running where session = any(%(gone)s) returning *),
    stored as (
        insert into message (place, queue, rank, state, message_id, attempt, deaths, flags, key, note, tenant, envelope)
        select place, queue, rank, case when flags & 16 > 0 then 3 else 1 end, message_id, attempt, deaths, flags | 8, key, note, tenant,
            envelope
        from back
    ),
    waits as (delete from waiter where session = any(%(gone)s)),
    asks as (delete from asker where session = any(%(gone)s)),
    sessions as (delete from session where number = any(%(gone)s))
    select queue, count(*) from back group by queue
"""
_PRUNED: Final[dict[LiteralString, LiteralString]] = {  # of each table what is old
    "tracked": "state in ('done', 'dead') and at < now_seconds() - 86400",
    "idempotency": "until < now_seconds()",
    "unique_key": "until < now_seconds()",
    "budget": "greatest(tat, closed) < now_seconds() - 86400",
    "adoption": "at < now_seconds() - 86400",
    "stray_death": "at < now_seconds() - 86400",
    # A tenant that has had no more than those that wait is as good as a new one.
    "share": "at < now_seconds() - case when used <= (select least from turn t where t.queue = share.queue) then 600 else 86400 end",
    "archive": "at < now_seconds() - (select archive from exchange e where e.name = archive.exchange)",
}
# Rows that others add meanwhile stay, and are added up the next time.
_ADD_UP: Final[LiteralString] = """
    with gone as (delete from tally where (select count(*) from (select 1 from tally limit %(most)s) found) = %(most)s returning *)
    insert into tally select coalesce(id, 0), sum(published), sum(done), sum(retried), sum(died), exchange, sum(passed)
    from gone left join queue on id = gone.queue where id is not null or exchange <> '' group by id, exchange
"""
_TOO_MUCH: Final = """
    with sized as (
        select seq, archive_bytes, sum(pg_column_size(envelopes)) over (partition by exchange order by seq desc) as bytes
        from archive join exchange on name = exchange where archive_bytes > 0
    )
    delete from archive where seq in (select seq from sized where bytes > archive_bytes order by seq limit %s)
"""


class Tending:
    """Looks in the background, for as long as somebody consumes or sends later; whoever is first does it for all."""

    def __init__(self, database: Database, routes: Routes) -> None:
        self._database = database
        self._routes = routes
        self._task: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._gone: dict[int, float] = {}  # sessions whose connections are lost, since when that is seen
        self._pruned = self._swept = 0.0

    def begin(self) -> None:
        """Look from now on."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._tend())

    def look(self) -> None:
        """Look at once."""
        self._look.set()

    async def close(self) -> None:
        """Look no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _tend(self) -> None:
        while True:
            pause = _TURN
            try:
                pause = await self.turn()
            except BrokerError as error:
                log.warning("cannot look for what is due or lost (%s); trying again", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()
            self._look.clear()

    async def take_back(self) -> None:
        """Return when nothing is held by a session that is gone, also where it is to be waited whether one comes back."""
        await self.turn()
        while self._gone:
            await asyncio.sleep(_COMES_BACK / 4)
            await self.turn()

    async def turn(self) -> float:
        """Do once what is to be done now, and return in how many seconds to look again."""
        ((is_due, gone, next_due),) = await self._database.once(_LOOK, (), repeatable=True)
        now = asyncio.get_running_loop().time()
        self._gone = {number: self._gone.get(number, now) for number in gone}
        lost = [number for number, since in self._gone.items() if now - since >= _COMES_BACK]
        if now - self._swept >= _SWEEP:
            self._swept = now
            lost += [int(number) for (number,) in await self._database.once(_FORGOTTEN, (), repeatable=True)]
            await self._database.once(_ADD_UP, {"most": _AT_ONCE}, repeatable=True)
        if is_due or lost:
            await self._database.run(lambda cursor: self._tend_once(cursor, lost), repeatable=True)
            self._gone = {number: since for number, since in self._gone.items() if number not in lost}
        if now - self._pruned >= _PRUNE and await self._database.run(self._prune, repeatable=True):
            self._pruned = now
        return 0.0 if is_due else _TURN if next_due is None else max(0.0, min(_TURN, float(next_due)))

    async def _tend_once(self, cursor: Cursor, gone: list[int]) -> None:
        await cursor.execute(_TENDING)
        if not _first(await cursor.fetchall()):
            return  # somebody else does it
        queues: set[int] = set()
        if gone:
            await self._routes.refresh(cursor)
            await self._routes.remove_owned(cursor, gone)
            await cursor.execute(_TAKE_BACK, {"gone": gone})
            back = [int(row[0]) for row in await cursor.fetchall()]
            await cursor.execute("select pg_notify('chappe_ready', queue::text) from unnest(%s::integer[]) as t (queue)", (back,))
        await budgets.open_gates(cursor)
        await cursor.execute(_PROMOTE, (_AT_ONCE,))
        rows = await cursor.fetchall()
        await lines.join(cursor, [(queue, key, place, rank) for queue, key, place, rank, state in rows if state == 2])
        queues |= {int(row[0]) for row in rows}
        if queues:
            await cursor.execute(TELL, (sorted(queues),))

    async def _prune(self, cursor: Cursor) -> bool:
        """Forget a bounded part of what is old or too much, and tell whether that was all."""
        await cursor.execute(_TENDING)
        if not _first(await cursor.fetchall()):
            return True
        most, at_once = 0, 5 * _AT_ONCE
        for table, old in _PRUNED.items():
            found = "select ctid from " + table + " where " + old + " limit %s"
            await cursor.execute("delete from " + table + " where ctid = any(array(" + found + "))", (at_once,))
            most = max(most, cursor.rowcount)
        await cursor.execute(_TOO_MUCH, (at_once,))
        return max(most, cursor.rowcount) < at_once


def _first(rows: list[Row]) -> bool:
    return bool(rows and rows[0][0])
