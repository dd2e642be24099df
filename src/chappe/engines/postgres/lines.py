"""Whose turn it is among the messages of a key: each line has one head, and nobody else of it is lent.

What is published behind the head waits as *behind*. Every change of a line holds its row, so that who joins and who leaves come one after
the other; who leaves looks for the next only after that, in a statement of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, LiteralString

from chappe.engines.postgres.database import Cursor, Values

# Join: the messages were stored as *behind*; the first of a new line becomes its head and is ready.
JOIN: Final[LiteralString] = """
    with asked as (
        select distinct on (queue, key) queue, key, place, rank
        from unnest(%(queues)s::integer[], %(keys)s::text[], %(places)s::bigint[], %(ranks)s::bigint[]) as t (queue, key, place, rank)
        order by queue, key, rank, place
    ),
    lines as (
        insert into line select queue, key, place from asked order by queue, key
        on conflict (queue, key) do update set head = line.head returning queue, key, head
    ),
    heads as (update message m set state = 1 from lines where m.place = lines.head and m.state = 2 returning m.place)
    select asked.place, waits.place from asked join lines using (queue, key)
    join message waits on waits.place = lines.head and waits.state = 1 where waits.rank > asked.rank
"""
# A larger priority takes the place of a head that has not begun.
_OVERTAKE: Final[LiteralString] = """
    with stepped as (
        update message m set state = 2 from unnest(%s::bigint[], %s::bigint[]) as t (first, head)
        where m.place = t.head and m.state = 1 returning m.queue, m.key, t.first
    ),
    lines as (update line l set head = first from stepped s where l.queue = s.queue and l.key = s.key)
    update message m set state = 1 from stepped s where m.place = s.first and m.state = 2
"""
LOCK: Final[LiteralString] = """
    select 1 from line where (queue, key) in (select * from unnest(%(queues)s::integer[], %(keys)s::text[])) order by queue, key for update
"""
# Leave: lines whose head is nowhere any more go to the next, or end.
LEAVE: Final[LiteralString] = """
    with left_ones as (
        select l.queue, l.key, (
            select m.place from message m where m.queue = l.queue and m.key = l.key and m.state = 2 order by m.rank, m.place limit 1
        ) as next
        from line l join unnest(%(queues)s::integer[], %(keys)s::text[]) as t (queue, key) using (queue, key)
        where not exists (select 1 from running r where r.place = l.head) and not exists (select 1 from message m where m.place = l.head)
    ),
    ended as (delete from line l using left_ones o where l.queue = o.queue and l.key = o.key and o.next is null),
    moved as (update line l set head = o.next from left_ones o where l.queue = o.queue and l.key = o.key and o.next is not null),
    freed as (update message m set state = 1 from left_ones o where m.place = o.next returning m.queue)
    select distinct queue from freed
"""


def line_values(keys: Iterable[tuple[int, str]]) -> Values:
    """Return the values that name lines in `LOCK` and `LEAVE`."""
    named = sorted(set(keys))
    return {"queues": [queue for queue, _ in named], "keys": [key for _, key in named]}


async def join(cursor: Cursor, joining: Iterable[tuple[int, str, int, int]]) -> None:
    """Have messages that were stored as *behind*, each by queue, key, place and rank, stand in their lines."""
    rows = list(joining)
    if not rows:
        return
    queues, keys, places, ranks = (list(column) for column in zip(*rows, strict=True))
    await cursor.execute(JOIN, {"queues": queues, "keys": keys, "places": places, "ranks": ranks})
    if overtaken := await cursor.fetchall():
        await cursor.execute(_OVERTAKE, ([row[0] for row in overtaken], [row[1] for row in overtaken]))


async def leave(cursor: Cursor, keys: Iterable[tuple[int, str]]) -> list[int]:
    """Have the next of each line come forward, if its head has ended, and return the queues in which somebody did."""
    values = line_values(keys)
    if not values["queues"]:  # type: ignore[index]
        return []
    await cursor.execute(LOCK, values)
    await cursor.execute(LEAVE, values)
    return [int(row[0]) for row in await cursor.fetchall()]
