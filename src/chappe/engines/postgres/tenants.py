"""Claims of queues with tenants: whose turn it is, `chappe.engines.fairness` says, from what all hosts have stored of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

from chappe.engines.contract.broker import Retry, Settlement
from chappe.engines.fairness import Shares
from chappe.engines.postgres.claims import MOVE, Held
from chappe.engines.postgres.database import Cursor, Row

_LOOK: Final = 0.1  # seconds after which it is looked who waits and what they had, where that is more than a few
_FEW: Final = 50
_MOST: Final = 10_000  # tenants that are known at once
_TRIES: Final = 3  # of one claim, where those whose turn it was have less than was thought
# Claims of one queue come one after the other.
_TURN: Final[LiteralString] = """
    insert into turn (queue, least) values (%s, %s) on conflict (queue) do update set least = greatest(turn.least, excluded.least)
    returning least
"""
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


class _View(NamedTuple):
    """What one consumer knows of the tenants of a queue: as of its last look, and what it has lent since."""

    looked: float
    ranks: list[int]  # in which somebody waits
    shares: Shares
    least: float  # what those had that waited
    is_small: bool


class Tenants:
    """Who waits in which queue, as one consumer saw it a moment ago."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._views: dict[int, _View] = {}

    async def claim(self, cursor: Cursor, queue: int, limit: int, session: int, most: int) -> list[Row]:
        """Lend the next messages of a queue, of ranks up to `most`, in the order of the tenants' turns."""
        view = self._views.get(queue)
        await cursor.execute(_TURN, (queue, 0.0 if view is None else view.least))
        row = await cursor.fetchone()
        assert row is not None
        found: list[Row] = []
        for again in (False, True):
            if again or view is None or view.is_small or self._now() - view.looked > _LOOK:
                view = self._views[queue] = await self._look(cursor, queue, float(row[0]))
            for rank in view.ranks:
                if rank <= most and len(found) < limit:
                    found += await self._claim(cursor, view.shares, limit - len(found), {"queue": queue, "rank": rank, "session": session})
            if found:
                break
        return found

    async def _look(self, cursor: Cursor, queue: int, least: float) -> _View:
        """Look who waits, and what they had."""
        await cursor.execute(_WAITING, {"queue": queue, "most": _MOST})
        waiting = [(int(rank), str(tenant)) for rank, tenant in await cursor.fetchall()]
        await cursor.execute(_KNOWN, {"queue": queue, "tenants": list({tenant for _, tenant in waiting})})
        known = await cursor.fetchall()
        least = max(least, min((float(used) for _, used, *_ in known), default=0.0))
        shares = Shares({tenant: float(weight) for tenant, _, _, weight, _ in known}, least)
        for tenant, used, estimate, _, running in known:
            shares.know(tenant, float(used), estimate, int(running))
        for rank, tenant in waiting:
            shares.wait(tenant, rank)
        return _View(self._now(), sorted({rank for rank, _ in waiting}), shares, least, len(waiting) < _FEW)

    @staticmethod
    async def _claim(cursor: Cursor, shares: Shares, limit: int, values: Mapping[str, int]) -> list[Row]:
        """Lend messages of one rank; those of whom nothing waits any more have no turn until the next look."""
        found: list[Row] = []
        rank = values["rank"]
        for _ in range(_TRIES):
            if not (order := shares.allot(limit - len(found), rank)):
                break
            counts = Counter(order)
            await cursor.execute(_CLAIM, {**values, "tenants": list(counts), "counts": list(counts.values())})
            lent: dict[str, deque[Row]] = {}
            for row in await cursor.fetchall():
                lent.setdefault(str(row[8]), deque()).append(row)
            for tenant, count in counts.items():
                shares.lent(tenant, len(lent.get(tenant, ())))
                if len(lent.get(tenant, ())) < count:
                    shares.rest(tenant, rank)
            found += [lent[tenant].popleft() for tenant in order if lent.get(tenant)]
        return found


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
