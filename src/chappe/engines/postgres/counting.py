"""How many messages there are, at a cost that does not grow with them: so many are counted in each index, and more is estimated.

A counter that is kept would be a row which every sender and worker changes: they would wait for each other, and beside a transaction that
somebody keeps open its dead versions would pile up. It is counted from the last, for what was taken leaves dead rows at the front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

from chappe.engines.contract.broker import Depth
from chappe.engines.postgres.database import Cursor

MOST: Final = 10_000  # of one state of a queue that are counted
_PAGES: Final = 200  # of a table that are looked at for an estimate
_COUNT: Final[LiteralString] = """
    select q.id,
        (select count(*) from (
            select 1 from message m where m.queue = q.id and m.state = 1 order by m.rank desc, m.place desc limit %(most)s
        ) found),
        (select count(*) from (select 1 from message m where m.queue = q.id and m.state = 2 limit %(most)s) found),
        (select count(*) from (select 1 from message m where m.queue = q.id and m.state = 3 limit %(most)s) found),
        (select count(*) from (select 1 from message m where m.queue = q.id and m.state = 0 order by m.due desc limit %(most)s) found),
        (select count(*) from (select 1 from dead d where d.queue = q.id order by d.number desc limit %(most)s) found),
        coalesce(lent.count, 0)
    from unnest(%(queues)s::integer[]) as q (id)
    left join (select queue, count(*) from running group by queue) lent on lent.queue = q.id
"""
# Every so many pages of a table one is looked at; on a page are no more rows than these.
_SOME: Final[LiteralString] = """(
    with size as (
        select greatest(1, pg_relation_size({table}) / current_setting('block_size')::integer) as pages, %(pages)s::bigint as most
    ),
    seen as (select pages, least(pages, most) as looked from size)
    select queue, {state}, round(count(*) * (select pages::float8 / looked from seen))::bigint
    from {name} where ctid = any (array(
        select format('(%%s,%%s)', floor((page + 0.5) * pages / looked)::bigint, number)::tid
        from seen, generate_series(0, looked - 1) page, generate_series(1, 120) number
    )) group by 1, 2
)"""
_WAITING: Final[LiteralString] = _SOME.format(table="'message'", name="message", state="state")
_DEAD: Final[LiteralString] = _SOME.format(table="'dead'", name="dead", state="-1")
_STATES: Final = (1, 2, 3, 0, -1)  # in the order of what is counted; of dead letters there is none


async def count(cursor: Cursor, queues: Sequence[int], *, most: int | None) -> Mapping[int, tuple[Depth, bool]]:
    """Return how many messages each queue has in each state, and whether that is an estimate: of what is more than `most`."""
    await cursor.execute(_COUNT, {"queues": list(queues), "most": most})
    rows = await cursor.fetchall()
    if most is None or not any(count >= most for _, *counts, _ in rows for count in counts):
        return {queue: (_depth(counts, lent), False) for queue, *counts, lent in rows}
    some = await _estimates(cursor)
    found: dict[int, tuple[Depth, bool]] = {}
    for queue, *counts, lent in rows:
        better = [max(count, some.get((queue, state), 0)) if count >= most else count for count, state in zip(counts, _STATES, strict=True)]
        found[queue] = (_depth(better, lent), max(counts) >= most)
    return found


async def _estimates(cursor: Cursor) -> dict[tuple[int, int], int]:
    """Return about how many messages there are of each queue and state."""
    await cursor.execute(_WAITING + " union all " + _DEAD, {"pages": _PAGES})
    return {(int(queue), int(state)): int(count) for queue, state, count in await cursor.fetchall()}


def _depth(counts: Sequence[Any], lent: Any) -> Depth:
    ready, behind, alone, delayed, dead = (int(count) for count in counts)
    return Depth(ready + behind + alone, int(lent), delayed, dead)
