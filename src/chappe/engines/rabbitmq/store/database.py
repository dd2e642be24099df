"""The connections to PostgreSQL: opened when needed, bounded by a deadline, with errors that say what may have been done."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from chappe.errors import BrokerUnavailable, CorruptStorage, Unconfirmed

log = logging.getLogger(__name__)
T = TypeVar("T")
Cursor = AsyncCursor[tuple[Any, ...]]
Connection = AsyncConnection[tuple[Any, ...]]

SCHEMA: Final = "chappe_rabbitmq"  # another than that of PostgreSQL by itself, which may be in the same database
_MIGRATIONS: Final = ("0001.sql", "0002.sql")
_MIGRATING: Final = 0x6E6F7269  # the advisory lock under which the schema is changed


class Collision(Exception):
    """Another transaction came first, and what this one has read is out of date: begin again."""


_AGAIN: Final = (Collision, psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation)
_TRIES: Final = 10
_PAUSE: Final = 0.05
_LAST: Final = 0.2  # seconds after the deadline, in which a connection that was cut is given up
_CONNECTIONS: Final = 4


class _Said:
    """What was said so far: `is_final` if it may have been stored, `is_repeatable` if saying it again does no harm."""

    is_final = False
    is_repeatable = False


class Database:
    """A small pool of connections of one event loop."""

    def __init__(self, url: str, *, deadline: float, schema: str = SCHEMA) -> None:
        self.url = url
        self.deadline = deadline
        self.schema = schema
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def place(self) -> str:
        """Where it is, without the password."""
        known = conninfo_to_dict(self.url)
        return f"postgresql://{known.get('host') or 'localhost'}:{known.get('port') or 5432}/{known.get('dbname') or ''}"

    def parameters(self) -> dict[str, Any]:
        """Return how connections are to be opened: none waits longer than the deadline for the server."""
        milliseconds = max(1, int(self.deadline * 1000))
        return {
            "autocommit": True,
            "connect_timeout": max(2, int(self.deadline)),
            "tcp_user_timeout": milliseconds,
            "application_name": "chappe",
            "options": f"-c search_path={self.schema} -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
        }

    async def _ready(self, until: float) -> AsyncConnectionPool[Connection]:
        async with self._opening:
            if self._closed:
                raise BrokerUnavailable(f"the connections to {self.place} were closed; nothing was stored")
            if self._pool is None:
                await self._migrate(until)
                pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
                    self.url, kwargs=self.parameters(), min_size=1, max_size=_CONNECTIONS, open=False, timeout=self.deadline,
                    check=None, reconnect_timeout=1.0, max_idle=60.0,
                )  # fmt: skip
                await pool.open()
                self._pool = pool
            return self._pool

    async def connect(self) -> Connection:
        """Open a connection of one's own. Raises `psycopg.Error`."""
        return await AsyncConnection.connect(self.url, **self.parameters())

    async def _migrate(self, until: float) -> None:
        """Bring the schema up to this release; a newer one is left as it is, for it only ever adds."""
        async with (
            await self.connect() as connection,
            cut_at(until, connection),
            connection.transaction(),
            connection.cursor() as cursor,
        ):
            await cursor.execute("select pg_advisory_xact_lock(%s)", (_MIGRATING,))
            await cursor.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(self.schema)))
            await cursor.execute("create table if not exists migration (number integer primary key, at timestamptz not null default now())")
            await cursor.execute("select coalesce(max(number), 0) from migration")
            row = await cursor.fetchone()
            assert row is not None
            for number, name in enumerate(_MIGRATIONS, 1):
                if number > int(row[0]):
                    await cursor.execute(resources.files(__package__ or "").joinpath(name).read_bytes())
                    await cursor.execute("insert into migration (number) values (%s)", (number,))

    async def run(self, work: Callable[[Cursor], Awaitable[T]], *, writes: bool = True) -> T:
        """Do some work in one transaction, again from its beginning where others were in its way.

        Raises `BrokerUnavailable` if certainly nothing was stored, and `Unconfirmed` where the answer to a commit was lost.
        """

        async def transaction(cursor: Cursor, said: _Said) -> T:
            async with cursor.connection.transaction():
                done = await work(cursor)
                said.is_final = writes
            return done

        return await self._persist(transaction)

    async def once(
        self, statement: LiteralString, values: Mapping[str, Any] | Sequence[Any], *, repeatable: bool
    ) -> tuple[Any, ...] | None:
        """Execute one statement, which is a transaction of its own, and return its first row; see `run` for what is raised.

        `repeatable` says that it may be said again where nobody knows whether it was done.
        """

        async def execution(cursor: Cursor, said: _Said) -> tuple[Any, ...] | None:
            said.is_final, said.is_repeatable = True, repeatable
            await cursor.execute(statement, values)
            return await cursor.fetchone()

        return await self._persist(execution)

    async def _persist(self, doing: Callable[[Cursor, _Said], Awaitable[T]]) -> T:
        said, cause, tries = _Said(), "", 0
        until = asyncio.get_running_loop().time() + self.deadline
        try:
            async with asyncio.timeout_at(until + _LAST):
                while True:
                    said.is_final = said.is_final and said.is_repeatable
                    try:
                        pool = await self._ready(until)
                        async with pool.connection() as connection, cut_at(until, connection), connection.cursor() as cursor:
                            return await doing(cursor, said)
                    except _AGAIN as error:
                        said.is_final = False
                        if (tries := tries + 1) >= _TRIES:
                            why = f"others were in the way {tries} times ({_reason(error)})"
                            raise BrokerUnavailable(f"{self.place}: {why}; nothing was stored, try again") from None
                    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, OSError) as error:
                        if said.is_final and not said.is_repeatable:
                            raise
                        cause = _reason(error)
                        if asyncio.get_running_loop().time() >= until:
                            raise
                        await asyncio.sleep(_PAUSE)
        except (TimeoutError, psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
            if said.is_final:
                raise Unconfirmed(f"{self.place} was lost while it stored something ({_reason(error)}): it may be stored or not") from None
            why = cause or _reason(error)
            raise BrokerUnavailable(f"{self.place} did not answer within {self.deadline:g} s ({why}); nothing was stored") from None
        except (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted) as error:
            raise CorruptStorage(f"{self.place} is damaged ({error}); restore it from a backup") from None

    async def close(self) -> None:
        """Close all connections; nothing is done any more."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=1.0)


@asynccontextmanager
async def cut_at(until: float, connection: Connection) -> AsyncGenerator[None]:
    """End what is said over a connection at a time of the loop, as if the network had failed.

    Whoever is only cancelled has psycopg ask the server to end the statement, for ten seconds if the server stands still.
    """
    late = asyncio.get_running_loop().call_at(until, _cut, connection)
    try:
        yield
    finally:
        late.cancel()


def _cut(connection: Connection) -> None:
    with suppress(OSError, psycopg.OperationalError), socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
