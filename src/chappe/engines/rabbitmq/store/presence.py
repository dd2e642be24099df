"""That this session lives, shown by a lock that the server takes back the moment its connection is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final, LiteralString

import msgspec
import psycopg

from chappe.engines.rabbitmq.store.database import Connection, Cursor, Database, cut_at
from chappe.errors import BrokerUnavailable

log = logging.getLogger(__name__)

_LOCKS: Final = 7237491  # the class of our sessions among the advisory locks of the database
_AGAIN: Final = 0.5
_LOCK: Final = "select pg_advisory_lock(%s, %s)"
LIVES: Final[LiteralString] = (
    "locktype = 'advisory' and classid = 7237491 and database = (select oid from pg_database where datname = current_database())"
)
ALIVE: Final[LiteralString] = "exists (select 1 from pg_locks where " + LIVES + " and objid::bigint = session)"
_TIDY: Final[LiteralString] = "delete from session where not exists (select 1 from pg_locks where " + LIVES + " and objid::bigint = number)"


class Presence:
    """One session: a number that nobody else has, and a connection that hears what ended."""

    def __init__(self, database: Database, *, role: str) -> None:
        self._database = database
        self.role = role
        self.info: dict[str, Any] = {}
        self.name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self.on_ended: Callable[[str], None] = _deaf
        self._number: int | None = None
        self._consumes = False
        self._entering = asyncio.Lock()
        self._hearing: asyncio.Task[None] | None = None

    async def number(self) -> int:
        """Return the number, after entering with the first call. Raises `BrokerUnavailable`."""
        if self._number is None:
            async with self._entering:
                if self._number is None:
                    await self._database.run(_nothing, writes=False)  # the schema is there
                    try:
                        connection = await self._enter()
                    except (psycopg.Error, OSError) as error:
                        raise BrokerUnavailable(f"{self._database.place} did not let this process in: {error}") from None
                    self._hearing = asyncio.get_running_loop().create_task(self._hear(connection))
        assert self._number is not None
        return self._number

    async def consume(self) -> None:
        """Show that this session consumes, so that others ask it what it holds."""
        number, self._consumes = await self.number(), True

        async def work(cursor: Cursor) -> None:
            await cursor.execute("update session set consumes = true where number = %s", (number,))

        await self._database.run(work)

    async def _enter(self) -> Connection:
        until = asyncio.get_running_loop().time() + self._database.deadline
        connection = await self._database.connect()
        try:
            async with cut_at(until, connection):
                number = await self._register(connection)
        except BaseException:
            await connection.close()
            raise
        self._number = number
        return connection

    async def _register(self, connection: Connection) -> int:
        """Show on a connection that this session lives, and return its number."""
        if self._number is None:
            row = await (await connection.execute("select nextval('session_number')")).fetchone()
            assert row is not None
            number = int(row[0])
        else:
            number = self._number
        await connection.execute("set statement_timeout = 0")
        await connection.execute(_LOCK, (_LOCKS, number))
        await connection.execute(
            "insert into session (number, name, role, info, consumes) values (%s, %s, %s, %s, %s) on conflict (number) do update"
            " set name = excluded.name, role = excluded.role, info = excluded.info, consumes = excluded.consumes",
            (number, self.name, self.role, msgspec.json.encode(self.info), self._consumes),
        )
        await connection.execute(_TIDY)
        await connection.execute("listen chappe_ended")
        return number

    async def _hear(self, connection: Connection) -> None:
        while True:
            try:
                async for told in connection.notifies():
                    self.on_ended(told.payload)
            except psycopg.Error as error:
                log.warning("the connection that shows that this process lives was lost (%s); opening another", error)
            finally:
                await connection.close()
            while connection.closed:
                await asyncio.sleep(_AGAIN)
                with contextlib.suppress(psycopg.Error, OSError):
                    connection = await self._enter()

    async def close(self) -> None:
        """Leave."""
        hearing, self._hearing = self._hearing, None
        if hearing is not None:
            hearing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await hearing


async def _nothing(cursor: Any) -> None:
    await cursor.execute("select 1")


def _deaf(message_id: str) -> None:
    """Wait for nothing."""
