"""Claims of queues with tenants: whose turn it is, `chappe.engines.fairness` says, from what all hosts have stored of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, LiteralString

from chappe.engines.contract.broker import Retry, Settlement
from chappe.engines.fairness import Shares, allotted
from chappe.engines.postgres.claims import MOVE, Held
from chappe.engines.postgres.database import Cursor, Row

_LOOK: Final = 0.1  # seconds after which it is looked who waits, where that is more than a few
_FEW: Final = 50
_MOST: Final = 10_000  # tenants that are known at once
# Claims of one queue come one after the other.
_TURN: Final = "insert into turn (queue) values (%s) on conflict (queue) do update set least = turn.least returning least"
_LEAST: Final = "update turn set least = %s where queue = %s"
_WAITING: Final[LiteralString] = """
    with recursive t as (
        (
            select rank, tenant from message where queue = %(queue)s and state = 1 and tenant is not null
                and not (select paused from queue where id = %(queue)s) order by rank, tenant limit 1
        )
        union all
        select m.rank, m.tenant from t, lateral (
            select rank, tenant from message where queue = %(queue)s and state = 1 and tenant is not null
                and (rank, tenant) > (t.rank, t.tenant) order by rank, tenant limit 1
        ) m
    )
    select rank, tenant from t limit %(most)s
"""
_KNOWN: Final[LiteralString] = """
    select t.tenant, coalesce(s.used, 0), s.estimate, coalesce(w.weight, 1), coalesce(r.count, 0)
    from unnest(%(tenants)s::text[]) as t (tenant) left join share s on s.queue = %(queue)s and s.tenant = t.tenant
    left join weight w on w.tenant = t.tenant
    left join (
        select tenant, count(*) as count from running where queue = %(queue)s and tenant is not null group by tenant
    ) r on r.tenant = t.tenant
"""
_CLAIM: Final[LiteralString] = (
    """
    with first as (
        select m.place from unnest(%(tenants)s::text[], %(counts)s::integer[]) as t (tenant, count), lateral (
            select place from message where queue = %(queue)s and not (select paused from queue where id = %(queue)s)
                and state = 1 and rank = %(rank)s and tenant = t.tenant order by place limit t.count for update skip locked
        ) m
    ),
    """
    + MOVE
)
_CHARGE: Final[LiteralString] = """
    insert into share as s (queue, tenant, used, last, estimate, at)
    select t.queue, t.tenant, coalesce(max(l.least), 0) + sum(t.seconds) / coalesce(max(w.weight), 1),
        sum(t.seconds) / coalesce(max(w.weight), 1), avg(t.seconds), now_seconds()
    from unnest(%s::integer[], %s::text[], %s::float8[]) as t (queue, tenant, seconds)
    left join weight w on w.tenant = t.tenant left join turn l on l.queue = t.queue
    group by t.queue, t.tenant order by t.queue, t.tenant
    on conflict (queue, tenant) do update set used = greatest(s.used + excluded.last, excluded.used), last = excluded.last,
        estimate = s.estimate + 0.2 * (excluded.estimate - s.estimate), at = excluded.at
"""
_LEAST_SECONDS: Final = 1e-6


class Tenants:
    """Who waits in which queue, as one consumer saw it a moment ago."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._waiting: dict[int, dict[int, list[str]]] = {}
        self._looked: dict[int, float] = {}

    async def claim(self, cursor: Cursor, queue: int, limit: int, session: int, most: int) -> list[Row]:
        """Lend the next messages of a queue, of ranks up to `most`, in the order of the tenants' turns."""
        await cursor.execute(_TURN, (queue,))
        row = await cursor.fetchone()
        assert row is not None
        found: list[Row] = []
        for again in (False, True):
            waiting = await self._who_waits(cursor, queue, again=again)
            for rank in sorted(rank for rank in waiting if rank <= most):
                values = {"queue": queue, "rank": rank, "session": session}
                found += await self._claim(cursor, waiting[rank], limit - len(found), float(row[0]), values)
                if len(found) >= limit:
                    break
            if found:
                break
        return found

    async def _claim(self, cursor: Cursor, tenants: list[str], limit: int, least: float, values: Mapping[str, int]) -> list[Row]:
        """Lend messages of one rank; those of whom nothing waits any more are taken out of the list."""
        await cursor.execute(_KNOWN, {**values, "tenants": tenants})
        known = await cursor.fetchall()
        shares = Shares({tenant: float(weight) for tenant, _, _, weight, _ in known}, least)
        for tenant, used, estimate, _, running in known:
            shares.know(tenant, float(used), estimate, int(running))
        found: list[Row] = []
        while tenants and len(found) < limit:
            order = allotted(shares.turns(tenants), limit - len(found))
            counts = Counter(order)
            await cursor.execute(_CLAIM, {**values, "tenants": list(counts), "counts": list(counts.values())})
            lent: dict[str, deque[Row]] = {}
            for row in await cursor.fetchall():
                lent.setdefault(str(row[8]), deque()).append(row)
            for tenant, count in counts.items():
                shares.lent(tenant, len(lent.get(tenant, ())))
                if len(lent.get(tenant, ())) < count:
                    tenants.remove(tenant)
            found += [lent[tenant].popleft() for tenant in order if lent.get(tenant)]
        await cursor.execute(_LEAST, (shares.least, values["queue"]))
        return found

    async def _who_waits(self, cursor: Cursor, queue: int, *, again: bool) -> dict[int, list[str]]:
        """Return the tenants that wait by their ranks, as of now or of a moment ago."""
        now, known = self._now(), self._waiting.get(queue, {})
        if again or sum(map(len, known.values())) < _FEW or now - self._looked[queue] > _LOOK:
            await cursor.execute(_WAITING, {"queue": queue, "most": _MOST})
            found: dict[int, list[str]] = {}
            for rank, tenant in await cursor.fetchall():
                found.setdefault(int(rank), []).append(str(tenant))
            known = self._waiting[queue] = found
            self._looked[queue] = now
        return known


async def charge(cursor: Cursor, settlements: Iterable[Settlement], held: Mapping[int, Held]) -> None:
    """Charge tenants with the seconds that their messages ran, or else with those since they were lent."""
    now, rows = time.monotonic(), list[tuple[int, str, float]]()
    for one in settlements:
        known = held[one.delivery]
        if known.tenant is not None and (one.took is not None or not isinstance(one, Retry) or one.counted):
            rows.append((known.queue, known.tenant, max(_LEAST_SECONDS, now - known.lent_at if one.took is None else one.took)))
    if rows:
        columns: Sequence[list[object]] = [list(column) for column in zip(*rows, strict=True)]
        await cursor.execute(_CHARGE, tuple(columns))
