"""The tables of PostgreSQL under test: emptied, which is sooner than made anew, and the clock that all their statements ask."""

from __future__ import annotations

import psycopg
from psycopg import sql

_EMPTY = """
    truncate message, running, line, failure, dead, mark, tracked, idempotency, unique_key, budget, gate, schedule, schedule_definition,
        archive, desired, session, waiter, asker, follower, queue, exchange, adoption, stray_death, share, turn, weight, tally;
    update archive_head set seq = 0;
    update topology set version = version + 1
"""
_CLOCK = sql.SQL("""
    create or replace function chappe.now_seconds() returns double precision language sql volatile as
    'select extract(epoch from clock_timestamp())::double precision + {}'
""")


async def are_there(connection: psycopg.AsyncConnection) -> bool:
    """Tell whether an earlier test has made the tables, and have this connection find them."""
    await connection.execute("set search_path = chappe")
    found = await (await connection.execute("select to_regclass('chappe.message')")).fetchone()
    return found is not None and found[0] is not None


async def empty(connection: psycopg.AsyncConnection) -> None:
    """Delete what an earlier test left."""
    await connection.execute(_EMPTY)


async def set_clock(connection: psycopg.AsyncConnection, seconds: float) -> None:
    """Have the clock be so many seconds ahead."""
    await connection.execute(_CLOCK.format(sql.Literal(seconds)))
