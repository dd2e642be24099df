"""Claims of queues with tenants: whose turn it is, `chappe.engines.fairness` says, from what all hosts have stored of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, LiteralString

from chappe.engines.contract.broker import Retry, Settlement
from chappe.engines.fairness import Shares
from chappe.engines.postgres.claims import MOVE, Held
from chappe.engines.postgres.database import Cursor, Row

_LOOK: Final = 0.1  # seconds after which it is looked who came, where more than a few wait
_WHOLE: Final = 1.0  # seconds after which it is looked who waits and what they had
_FEW: Final = 50
_MOST: Final = 10_000  # tenants that are known at once
_TRIES: Final = 3  # of one claim, where those whose turn it was have less than was thought
# Claims of one queue come one after the other.
_TURN: Final[LiteralString] = """
    insert into turn (queue, least) values (%s, %s) on conflict (queue) do update set least = greatest(turn.least, excluded.least)
    returning least
"""
_WAITING: Final[LiteralString] = """
    recursive t as (
        (
            select rank, tenant, place from message where queue = %(queue)s and state = 1 and tenant is not null
                and not (select paused from queue where id = %(queue)s) order by rank, tenant, place limit 1
        )
        union all
        select m.rank, m.tenant, m.place from t, lateral (
            select rank, tenant, place from message where queue = %(queue)s and state = 1 and tenant is not null
                and (rank, tenant) > (t.rank, t.tenant) order by rank, tenant, place limit 1
        ) m
    ),
    waits as materialized (select rank, tenant, place from t limit %(most)s)
"""
# What came since: the places of what is stored at the same time need not be in the order of the commits.
_COME: Final[LiteralString] = """
    waits as materialized (
        select rank, tenant, min(place) as place from (
            select rank, tenant, place from message where place > %(since)s and queue = %(queue)s and state = 1 and tenant is not null
                and not (select paused from queue where id = %(queue)s) order by place limit %(most)s
        ) m group by rank, tenant
    )
"""
# What runs comes in rows without a rank: joined to the others it would be counted again for each of them.
_KNOWN: Final[LiteralString] = """
    select t.rank, t.tenant, coalesce(s.used, 0), s.estimate, coalesce(w.weight, 1), t.place, (select last_value from place)
    from waits t left join share s on s.queue = %(queue)s and s.tenant = t.tenant left join weight w on w.tenant = t.tenant
    union all
    select null, tenant, 0, null, 1, 0, count(*) from running where queue = %(queue)s and tenant is not null group by tenant
"""
_LOOK_AT_ALL: Final[LiteralString] = f"with {_WAITING} {_KNOWN}"
_LOOK_AT_NEW: Final[LiteralString] = f"with {_COME} {_KNOWN}"
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
    from {ended} left join weight w on w.tenant = t.tenant left join turn l on l.queue = t.queue where t.tenant is not null
    group by t.queue, t.tenant order by t.queue, t.tenant
    on conflict (queue, tenant) do update set used = greatest(s.used + excluded.last, excluded.used), last = excluded.last,
        estimate = s.estimate + 0.2 * (excluded.estimate - s.estimate), at = excluded.at
"""
_GIVEN: Final[LiteralString] = "unnest(%s::integer[], %s::text[], %s::float8[]) as t (queue, tenant, seconds)"
_CHARGE_THEM: Final[LiteralString] = _CHARGE.replace("{ended}", _GIVEN)
DONE_CHARGED: Final[LiteralString] = f"""
    with t as (
        delete from running r using unnest(%s::bigint[], %s::float8[]) as a (place, seconds)
        where r.place = a.place and r.session = %s returning r.place, r.queue, r.tenant, a.seconds
    ),
    counted as (insert into tally (queue, done) select queue, count(*) from t group by queue),
    charged as ({_CHARGE.replace("{ended}", "t")})
    select place from t
"""
_LEAST_SECONDS: Final = 1e-6


class _View:
    """What one consumer knows of the tenants of a queue: as of its last looks, and what it has lent since."""

    def __init__(self, now: float, least: float, weights: dict[str, float], since: int) -> None:
        self.whole_at = self.looked_at = now
        self.least = least  # what those had that waited
        self.weights = weights
        self.shares = Shares(weights, least)
        self.waiting: set[tuple[int, str]] = set()
        self.last, self.since = 0, since  # the places of the last look and of the one before

    def take(self, rows: Sequence[Row]) -> None:
        """Take what a look brought; of those that are known, what was lent since is known better here."""
        known = {tenant for _, tenant in self.waiting}
        running = {row[1]: int(row[6]) for row in rows if row[0] is None}
        for rank, tenant, used, estimate, weight, place, last in rows:
            if rank is None:
                continue
            if tenant not in known:
                self.weights[tenant] = float(weight)
                self.shares.know(tenant, float(used), estimate, running.get(tenant, 0))
            self.shares.wait(tenant, int(rank), int(place))
            self.waiting.add((int(rank), tenant))
            self.last = int(last)

    @property
    def ranks(self) -> list[int]:
        """In which somebody waits."""
        return sorted({rank for rank, _ in self.waiting})


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
            view = self._views[queue] = await self._seen(cursor, queue, float(row[0]), None if again else view)
            for rank in view.ranks:
                if rank <= most and len(found) < limit:
                    found += await self._claim(cursor, view.shares, limit - len(found), {"queue": queue, "rank": rank, "session": session})
            if found:
                break
        return found

    async def _seen(self, cursor: Cursor, queue: int, least: float, view: _View | None) -> _View:
        """Return what is known now of those that wait: all of them where that is little or old, else with those that came since."""
        now = self._now()
        if view is None or len(view.waiting) < _FEW or now - view.whole_at > _WHOLE:
            await cursor.execute(_LOOK_AT_ALL, {"queue": queue, "most": _MOST})
            rows = await cursor.fetchall()
            since = 0 if view is None else view.last
            view = _View(now, max(least, min((float(row[2]) for row in rows if row[0] is not None), default=0.0)), {}, since)
        elif now - view.looked_at > _LOOK:
            await cursor.execute(_LOOK_AT_NEW, {"queue": queue, "most": _MOST, "since": view.since})
            rows, view.looked_at, view.since = await cursor.fetchall(), now, view.last
        else:
            return view
        view.take(rows)
        view.since = view.since or view.last
        return view

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
                rows = lent.get(tenant, ())
                shares.lent(tenant, len(rows), rows[-1][0] if rows else None)
                if len(rows) < count:
                    shares.rest(tenant, rank)
            found += [lent[tenant].popleft() for tenant in order if lent.get(tenant)]
        return found


def seconds_of(settlement: Settlement, held: Held) -> float:
    """Return what a tenant is charged with: the seconds that a message ran, or else those since it was lent."""
    return max(_LEAST_SECONDS, time.monotonic() - held.lent_at if settlement.took is None else settlement.took)


async def charge(cursor: Cursor, settlements: Iterable[Settlement], held: Mapping[int, Held]) -> None:
    """Charge tenants with what has run of theirs."""
    rows = [
        (known.queue, known.tenant, seconds_of(one, known))
        for one in settlements
        if (known := held[one.delivery]).tenant is not None and (one.took is not None or not isinstance(one, Retry) or one.counted)
    ]
    if rows:
        columns: Sequence[list[object]] = [list(column) for column in zip(*rows, strict=True)]
        await cursor.execute(_CHARGE_THEM, tuple(columns))
