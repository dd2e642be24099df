"""How often something may start, and the messages that wait until it may, each before those that came later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, LiteralString

from chappe.bounds import STARTS_AHEAD
from chappe.engines.budget import Budget, BudgetStatus, Taught, status_of
from chappe.engines.contract.results import Start
from chappe.engines.postgres.database import Cursor, Database

# Generic cell rate algorithm (ITU-T I.371), as `chappe.engines.budget` says it.
_BEFORE: Final[LiteralString] = """
    select 1 from (
        select queue, rank, place from running where place = %(tag)s
        union all select %(queue)s::integer, 0, %(tag)s where %(queue)s::integer is not null
    ) r join message m on m.queue = r.queue and m.budget = %(name)s and (m.rank, m.place) < (r.rank, r.place)
"""
_TAKE: Final[LiteralString] = (
    """
    with taken as (
        insert into budget as b (name, tat, pace, burst)
        select %(name)s, now_seconds() + %(interval)s, %(interval)s, %(burst)s where not exists (
"""
    + _BEFORE
    + """)
        on conflict (name) do update set tat = greatest(b.tat, b.closed, now_seconds()) + %(interval)s,
            pace = %(interval)s, burst = %(burst)s
        where greatest(b.tat - %(slack)s, b.closed) - now_seconds() <= %(within)s
        returning greatest(0, tat - %(interval)s - %(slack)s - now_seconds(), closed - now_seconds()) as wait
    )
    select true, wait from taken union all select false, greatest(0, tat - %(slack)s - now_seconds(), closed - now_seconds())
    from (select 1) asked left join budget on name = %(name)s where not exists (select 1 from taken)
"""
)
_LEARNED: Final[LiteralString] = (
    "select tat, pace, burst, closed, learned, now_seconds(), exists (" + _BEFORE + ") from budget where name = %(name)s for update"
)
_LEARN: Final = "update budget set tat = %s, pace = %s, burst = %s, closed = %s, learned = %s where name = %s"
_ALL: Final = "select name, tat, pace, burst, closed, learned, now_seconds() from budget order by name limit %s"
_THROTTLE: Final = """
    insert into budget (name, tat, closed) values (%(name)s, 0, %(until)s)
    on conflict (name) do update set closed = greatest(budget.closed, %(until)s)
"""
_WAIT: Final = """
    insert into gate select queue, budget, greatest(tat - pace * (burst - 1), closed, now_seconds()) - %s
    from (select distinct queue, budget from unnest(%s::integer[], %s::text[]) as t (queue, budget)) t left join budget on name = budget
    order by queue, budget on conflict (queue, budget) do update set opens = least(gate.opens, excluded.opens)
"""
# In two statements: what somebody stored who held a gate is seen only by a statement that begins after it has the gate itself.
_GATES: Final = "select queue, budget from gate where opens <= now_seconds() order by opens limit %s for update"
_OPEN: Final = """
    with asked as (
        select t.queue, t.budget, coalesce(b.pace, 1) as pace, coalesce(b.burst, 1) as burst, greatest(b.tat, b.closed, now) as arrival,
            greatest(b.tat - b.pace * (b.burst - 1), b.closed, now) as opens, now + %(ahead)s as until
        from (select now_seconds() as now) clock, unnest(%(queues)s::integer[], %(budgets)s::text[]) as t (queue, budget)
        left join budget b on b.name = t.budget
    ),
    roomy as (
        select asked.*, case when opens > until then 0 when pace <= 0 then 1000
            else least(1000, greatest(1, floor((until - arrival) / pace) + burst)) end::bigint as room from asked
    ),
    first as (
        select m.place, r.queue, r.budget from roomy r, lateral (
            select place from message m where m.queue = r.queue and m.budget = r.budget order by m.rank, m.place limit r.room
        ) m
    ),
    found as (select r.*, (select count(*) from first f where f.queue = r.queue and f.budget = r.budget) as found from roomy r),
    shut as (delete from gate g using found f where g.queue = f.queue and g.budget = f.budget and f.found < f.room),
    later as (
        update gate g set opens = greatest(case when room > 0 then arrival + room * pace - pace * (burst - 1) else 0 end, f.opens)
            - %(ahead)s
        from found f where g.queue = f.queue and g.budget = f.budget and f.found = f.room
    )
    update message m set due = 0 from first where m.place = first.place
"""
_AT_ONCE: Final = 1000
NEXT: Final[LiteralString] = "(select min(opens) from gate)"


class Budgets:
    """The store's side of the budgets that all hosts share."""

    _database: Database

    async def take_in(self, budget: str, interval: float | None, burst: int, within: float, tag: int, queue: int | None) -> Start:
        """See `Results.take`; a message of the broker beside this one is not here, but of this `queue`, behind all that wait in it."""
        if interval is None:
            return await self._take_learned(budget, within, tag, queue)
        values = {
            "name": budget, "interval": interval, "burst": burst, "slack": interval * (burst - 1), "within": within, "tag": tag,
            "queue": queue,
        }  # fmt: skip
        ((granted, wait),) = await self._database.once(_TAKE, values)
        return Start(granted, float(wait or 0.0))

    async def _take_learned(self, name: str, within: float, tag: int, queue: int | None) -> Start:
        async def work(cursor: Cursor) -> Start:
            await cursor.execute("insert into budget (name, tat, pace) values (%s, 0, 0) on conflict (name) do nothing", (name,))
            await cursor.execute(_LEARNED, {"name": name, "tag": tag, "queue": queue})
            ((*row, learned, now, is_behind),) = await cursor.fetchall()
            known = Budget(*row)
            wait = known.opens(now) - now
            if wait > within or is_behind:
                return Start(granted=False, wait=wait)
            taught = Taught.of(known if learned else Budget(interval=0.0), learned).started(now)
            await cursor.execute(_LEARN, (*taught.budget, taught.kept, name))
            return Start(granted=True, wait=wait)

        return await self._database.run(work)

    async def throttle(self, budget: str, until: float | None) -> None:
        async def work(cursor: Cursor) -> None:
            await cursor.execute(_LEARNED, {"name": budget, "tag": 0, "queue": None})
            rows = await cursor.fetchall()
            if rows and rows[0][4] is not None:
                ((*row, learned, now, _),) = rows
                taught = Taught.of(Budget(*row), learned).refused(now, until)
                await cursor.execute(_LEARN, (*taught.budget, taught.kept, budget))
            elif until is not None:
                await cursor.execute(_THROTTLE, {"name": budget, "until": until})

        await self._database.run(work)

    async def budgets(self, limit: int = 1000) -> list[BudgetStatus]:
        rows = await self._database.once(_ALL, (limit,), repeatable=True)
        return [status_of(name, Budget(*row), learned, now) for name, *row, learned, now in rows]


async def wait(cursor: Cursor, waiting: Iterable[tuple[int, str]]) -> None:
    """Have somebody look when budgets have room for what waits for them in queues."""
    rows = list(waiting)
    if rows:
        await cursor.execute(_WAIT, (STARTS_AHEAD, [queue for queue, _ in rows], [budget for _, budget in rows]))


async def open_gates(cursor: Cursor) -> None:
    """Have be due what waits for budgets that have room, as many as there is room for, larger priorities first."""
    await cursor.execute(_GATES, (_AT_ONCE,))
    if gates := await cursor.fetchall():
        values = {"queues": [queue for queue, _ in gates], "budgets": [budget for _, budget in gates], "ahead": STARTS_AHEAD}
        await cursor.execute(_OPEN, values)
