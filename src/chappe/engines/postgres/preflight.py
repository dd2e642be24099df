"""What of a PostgreSQL would break a promise, looked for on request: its durability, its role, its poolers, its room and its clock."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from chappe.engines.postgres.database import Cursor, Database, cut_at
from chappe.messages.finding import Finding

_OLDEST: Final = 130_000
_ROOM: Final = 10  # connections
_ASTRAY: Final = 5.0  # seconds
_ASK: Final = """
    select current_setting('server_version_num')::int, current_setting('fsync'), current_setting('synchronous_commit'),
        current_setting('full_page_writes'), pg_is_in_recovery(), current_setting('max_connections')::int,
        (select count(*) from pg_stat_activity), extract(epoch from clock_timestamp())::float8, current_setting('server_version')
"""


async def preflight(database: Database) -> list[Finding]:
    """Return what was found, the good too."""

    async def work(cursor: Cursor) -> tuple[Any, ...]:
        await cursor.execute(_ASK)
        row = await cursor.fetchone()
        assert row is not None
        return row

    number, fsync, commit, pages, recovers, most, used, now, version = await database.run(work, writes=False)
    sessions = await _sessions(database)
    return [
        Finding("postgresql version", "ok" if number >= _OLDEST else "warning", f"{version} at {database.place}; Chappe is tested with 15"),
        _durability(fsync, commit, pages),
        Finding("postgresql role", "wrong", "it is a standby, which takes no writes: name the primary in the URL")
        if recovers
        else Finding("postgresql role", "ok", "a primary"),
        Finding("postgresql sessions", "ok", "a connection is a session")
        if sessions == 1
        else Finding(
            "postgresql sessions", "wrong",
            "a pooler gives each statement to another session, and the locks that show who lives are lost: use session pooling, or none",
        ),
        Finding(
            "postgresql room", "ok" if most - used > _ROOM else "warning",
            f"{used} of {most} connections are in use; a worker of Chappe keeps two, a process that only sends or looks one",
        ),
        Finding(
            "postgresql clock", "ok" if abs(now - time.time()) < _ASTRAY else "warning",
            f"{now - time.time():+.1f} s against this host: delays and schedules are by its clock",
        ),
    ]  # fmt: skip


def _durability(fsync: str, commit: str, pages: str) -> Finding:
    if fsync == "off" or commit == "off":
        told = f"fsync={fsync}, synchronous_commit={commit}: what was confirmed is lost when the machine fails"
        return Finding("postgresql durability", "wrong", f"{told}; turn both on")
    if pages == "off":
        told = "full_page_writes=off: safe only where the file system never tears a page"
        return Finding("postgresql durability", "warning", told)
    return Finding("postgresql durability", "ok", f"fsync={fsync}, synchronous_commit={commit}")


async def _sessions(database: Database) -> int:
    """Count the sessions that serve one connection."""
    until = asyncio.get_running_loop().time() + database.deadline
    async with await database.connect() as connection, cut_at(until, connection):
        found: set[int] = set()
        for _ in range(5):
            row = await (await connection.execute("select pg_backend_pid()")).fetchone()
            assert row is not None
            found.add(int(row[0]))
        return len(found)
