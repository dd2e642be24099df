"""The connection to PostgreSQL: opened when needed, bounded by a deadline, with errors that say what may have been done."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import cached_property
from importlib import resources
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from chappe.errors import BrokerUnavailable, CorruptStorage, Rejected, StorageFull, Unconfirmed

T = TypeVar("T")
Row = tuple[Any, ...]
Cursor = AsyncCursor[Row]
Connection = AsyncConnection[Row]
Values = Mapping[str, Any] | Sequence[Any]

SCHEMA: Final = "chappe"
_TABLES: Final = resources.files(__package__ or "").joinpath("tables.sql").read_bytes()
# Of what the tables are, however that is written.
FINGERPRINT: Final = hashlib.sha256(re.sub(rb"\s*--[^\n]*|\s+", b" ", _TABLES)).hexdigest()[:16]
_MAKING: Final = 0x63686170  # the advisory lock under which the tables are made


class Collision(Exception):
    """Another transaction came first, and what this one has read is out of date: begin again."""


AGAIN: Final = (Collision, psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation)
_LOST: Final = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.IdleInTransactionSessionTimeout, OSError)
_FULL: Final = (psycopg.errors.DiskFull,)
# The server hears within seconds that the host of a session is gone: what it held is ready again then.
_ALIVE: Final = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3"
# What is claimed and settled is a few rows of tables that grow and shrink faster than the statistics by which plans are made. Also what is
# looked at is the beginning of an index: whoever gathers rows from it first, and sorts them then, reads the whole queue for that.
_PLANS: Final = (
    "-c jit=off -c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    " -c max_parallel_workers_per_gather=0"
)
_SLOWLY: Final = "select set_config('statement_timeout', %s, true)"
_TRIES: Final = 10
_PAUSE: Final = 0.05
_LAST: Final = 0.2  # seconds before the deadline ends, in which a connection that was cut is given up
_ENDS: Final = ContextVar("chappe_postgres_ends", default=math.inf)  # the time of the loop when a verb of several transactions has ended
# Parts of the deadline. A network may swallow what is said: what may be said again is so over another connection, well before the deadline.
_CONNECTING: Final = 0.4
_SOON: Final = 0.6
LATE: Final = 0.8
ANSWERS: Final = 0.2  # what a server needs at most to say that it is there
QUIET: Final = 1.0  # seconds after which a connection is asked whether the server still hears it: what it is told first would be in doubt


class _Said:
    """What was said so far: `is_final` if it may have been stored, `is_repeatable` if saying it again does no harm."""

    is_final = False
    is_repeatable = False


class Database:
    """The one connection of an event loop over which everything is said in turn."""

    def __init__(self, url: str, *, deadline: float, schema: str = SCHEMA) -> None:
        self.url = url
        self.deadline = deadline
        self.schema = schema
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self._is_made = False
        self._heard_at = 0.0  # the time of the loop at which the server last answered
        self._closed = False

    @cached_property
    def place(self) -> str:
        """Where it is, without the password."""
        known = conninfo_to_dict(self.url)
        return f"postgresql://{known.get('host') or 'localhost'}:{known.get('port') or 5432}/{known.get('dbname') or ''}"

    def parameters(self) -> dict[str, Any]:
        """Return how connections are to be opened: none waits longer than the deadline for the server."""
        milliseconds = max(1, int(self.deadline * 1000))
        bounds = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
        # Else a transaction whose end was lost on the way would hold its rows for as long as the server believes in the connection.
        bounds += f" -c idle_in_transaction_session_timeout={max(1, int(milliseconds * _SOON))}"
        return {
            "autocommit": True,
            "connect_timeout": max(2, int(self.deadline * _CONNECTING)),
            "tcp_user_timeout": milliseconds,
            "keepalives_idle": max(1, int(self.deadline)),  # of one who only listens nobody else would know that the network is gone
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "application_name": "chappe",
            "prepare_threshold": 2,
            "options": f"-c search_path={self.schema} {bounds} {_ALIVE} {_PLANS}",
        }

    async def connect(self) -> Connection:
        """Open a connection of one's own. Raises `psycopg.Error`."""
        return await AsyncConnection.connect(self.url, **self.parameters())

    async def _ready(self, until: float) -> Connection:
        if self._closed:
            raise BrokerUnavailable(f"the connection to {self.place} was closed; nothing was stored")
        if not self._is_made:
            await self._make(until)
            self._is_made = True
        if self._connection is not None and not await self._is_heard(self._connection, until):
            await self._connection.close()
            self._connection = None
        if self._connection is None:
            self._connection = await self.connect()
        return self._connection

    async def _is_heard(self, connection: Connection, until: float) -> bool:
        """Tell whether the server hears a connection: where nothing was said for a while, a network may have forgotten it."""
        if connection.closed or _is_hung_up(connection):
            return False
        now = asyncio.get_running_loop().time()
        if now - self._heard_at <= QUIET:
            return True
        with suppress(*_LOST):
            async with cut_at(min(until, now + self.deadline * ANSWERS), connection):
                await connection.execute("select 1")
                return True
        return False

    async def _make(self, until: float) -> None:
        """Make the tables where there are none. Raises `CorruptStorage` where they are those of another release."""
        async with (
            await self.connect() as connection,
            cut_at(until, connection),
            connection.transaction(),
            connection.cursor() as cursor,
        ):
            await cursor.execute("select pg_advisory_xact_lock(%s)", (_MAKING,))
            await cursor.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(self.schema)))
            await cursor.execute("select to_regclass('message') is not null, to_regclass('made_by') is not null")
            ((are_there, are_named),) = await cursor.fetchall()
            if not are_there:
                await cursor.execute(_TABLES)
                await cursor.execute("insert into made_by values (%s)", (FINGERPRINT,))
                return
            found = await (await cursor.execute("select fingerprint from made_by")).fetchone() if are_named else None
            if found != (FINGERPRINT,):
                raise CorruptStorage(
                    f'{self.place}: the schema "{self.schema}" has the tables of another release of Chappe; move what is in it with that '
                    f'release (chappe move), then "drop schema {self.schema} cascade", or name another database'
                )

    async def run(
        self, work: Callable[[Cursor], Awaitable[T]], *, writes: bool = True, repeatable: bool = False, soon: bool = False,
        deadlines: int = 1,
    ) -> T:  # fmt: skip
        """Do some work in one transaction, again from its beginning where others were in its way.

        `repeatable` says that it may be done again where nobody knows whether it was, `soon` that a lost answer does so little harm that
        it is not waited for until the deadline, `deadlines` that it has the time of so many.
        Raises `BrokerUnavailable` if certainly nothing was stored, and `Unconfirmed` where the answer to a commit was lost.
        """

        async def transaction(cursor: Cursor, said: _Said) -> T:
            async with cursor.connection.transaction():
                if deadlines > 1:
                    await cursor.execute(_SLOWLY, (str(int(self.deadline * deadlines * 1000)),))
                done = await work(cursor)
                said.is_final, said.is_repeatable = writes, repeatable
            return done

        return await self._persist(transaction, soon or repeatable or not writes, deadlines)

    @contextmanager
    def one_deadline(self) -> Generator[None]:
        """Have all that is said within this block end within one deadline together."""
        token = _ENDS.set(min(_ENDS.get(), asyncio.get_running_loop().time() + self.deadline))
        try:
            yield
        finally:
            _ENDS.reset(token)

    async def once(self, statement: LiteralString, values: Values, *, repeatable: bool = False, soon: bool = False) -> list[Row]:
        """Execute one statement, which is a transaction of its own, and return its rows; see `run` for what it takes and raises."""

        async def execution(cursor: Cursor, said: _Said) -> list[Row]:
            said.is_final, said.is_repeatable = True, repeatable
            await cursor.execute(statement, values, prepare=True)
            return await _rows(cursor)

        return await self._persist(execution, soon or repeatable)

    async def together(self, statements: Sequence[tuple[LiteralString, Values]], *, repeatable: bool = False) -> list[list[Row]]:
        """Execute statements in one transaction with one journey to the server and back, and return the rows of each."""

        if len(statements) == 1:
            return [await self.once(*statements[0], repeatable=repeatable)]

        async def execution(cursor: Cursor, said: _Said) -> list[list[Row]]:
            said.is_final, said.is_repeatable = True, repeatable
            connection = cursor.connection
            async with connection.pipeline(), connection.transaction():
                said_of = [await connection.execute(statement, values, prepare=True) for statement, values in statements]
            return [await _rows(one) for one in said_of]

        return await self._persist(execution, repeatable)

    async def _persist(self, doing: Callable[[Cursor, _Said], Awaitable[T]], soon: bool, deadlines: int = 1) -> T:
        said, cause, tries, loop = _Said(), "", 0, asyncio.get_running_loop()
        time = self.deadline * deadlines
        last = min(_LAST, time / 10)
        until = min(loop.time() + time, _ENDS.get()) - last
        try:
            async with asyncio.timeout_at(until + last):
                while True:
                    said.is_final = said.is_final and said.is_repeatable
                    try:
                        async with self._turn:
                            connection = await self._ready(until)
                            late = min(until, loop.time() + time * (_SOON if soon else LATE))
                            async with cut_at(late, connection), connection.cursor(binary=True) as cursor:
                                done = await doing(cursor, said)
                                self._heard_at = loop.time()
                                return done
                    except AGAIN as error:
                        said.is_final = False
                        if (tries := tries + 1) >= _TRIES:
                            why = f"others were in the way {tries} times ({reason(error)})"
                            raise BrokerUnavailable(f"{self.place}: {why}; nothing was stored, try again") from None
                    except _FULL as error:
                        raise StorageFull(f"{self.place} has no room to store more ({reason(error)}); nothing was lost") from None
                    except _LOST as error:
                        if said.is_final and not said.is_repeatable:
                            raise
                        cause = reason(error)
                        if loop.time() >= until:
                            raise
                        await asyncio.sleep(_PAUSE)
        except (TimeoutError, *_LOST) as error:
            if said.is_final:
                raise Unconfirmed(f"{self.place} was lost while it stored something ({reason(error)}): it may be stored or not") from None
            why = cause or reason(error)
            raise BrokerUnavailable(f"{self.place} did not answer within {self.deadline:g} s ({why}); nothing was stored") from None
        except (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted) as error:
            raise CorruptStorage(f"{self.place} is damaged ({error}); restore it from a backup") from None
        except psycopg.DataError as error:
            raise Rejected(f"PostgreSQL cannot store this: {reason(error)}") from None

    async def close(self) -> None:
        """Close the connection; nothing is done any more."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


@asynccontextmanager
async def cut_at(until: float, connection: Connection) -> AsyncGenerator[None]:
    """End what is said over a connection at a time of the loop, as if the network had failed; close it when somebody was interrupted.

    Whoever is only cancelled has psycopg ask the server to end the statement, for ten seconds if the server stands still.
    """
    late = asyncio.get_running_loop().call_at(until, _cut, connection)
    try:
        yield
    except BaseException as error:  # psycopg may still be in its midst, and take what comes then for the answer to the next statement
        if isinstance(error, asyncio.CancelledError) or connection.info.transaction_status != TransactionStatus.IDLE:
            await connection.close()
        raise
    finally:
        late.cancel()


def _is_hung_up(connection: Connection) -> bool:
    """Tell whether the server has closed a connection over which nothing is said just now: what is said next would be in doubt."""
    with suppress(OSError, psycopg.OperationalError), socket.socket(fileno=os.dup(connection.fileno())) as same:
        try:
            return same.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
    return True


def _cut(connection: Connection) -> None:
    with suppress(OSError, psycopg.OperationalError), socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)


async def _rows(cursor: Cursor) -> list[Row]:
    """Return what a statement brought; one that only changes something brings nothing."""
    return await cursor.fetchall() if cursor.description else []


def reason(error: BaseException) -> str:
    """Return the first line of what PostgreSQL or its client says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
