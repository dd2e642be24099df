"""That this session lives, shown by a lock that the server takes back the moment its connection is gone; and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, LiteralString

import msgspec
import psycopg
from psycopg import sql

from chappe.engines.postgres.database import ANSWERS, LATE, Connection, Database, cut_at
from chappe.errors import BrokerError, BrokerUnavailable

log = logging.getLogger("chappe.postgres")

_LOCKS: Final = 7237491  # the class of our sessions among the advisory locks of the database
_AGAIN: Final = 0.1
LIVES: Final[LiteralString] = (
    "locktype = 'advisory' and classid = 7237491 and database = (select oid from pg_database where datname = current_database())"
)
READY: Final = "chappe_ready"  # tells a queue in which there is something, to those who wait
CANCELLED: Final = "chappe_cancelled"  # tells the place of what somebody cancels while it runs
ASKED: Final = "chappe_asked"  # tells all sessions what one of them wants to know
ENDED: Final = "chappe_ended"  # tells a message that is done or dead, to those who asked


CONSUMES: Final[LiteralString] = (
    "select number from session where consumes and exists (select 1 from pg_locks where " + LIVES + " and objid::bigint = number)"
)
_CALL: Final[LiteralString] = (
    "select pg_notify(%s, '') from session where number = %s and exists (select 1 from pg_locks where "
    + LIVES
    + " and objid::bigint = number)"
)
# A connection that ended without a word lives on at the server, and with it the session that this one follows.
_END: Final[LiteralString] = "select pg_terminate_backend(pid) from pg_locks where " + LIVES + " and objid::bigint = %s"
_ADOPT: Final[LiteralString] = "update running set session = %s where session = %s and place = any(%s) returning place"


class Presence:
    """A number that nobody else has, for as long as one connection lives, and what others tell over that connection."""

    def __init__(self, database: Database, *, role: str) -> None:
        self._database = database
        self.role = role
        self.info: dict[str, Any] = {}
        self.name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self.on_told: list[Callable[[str, str], None]] = []
        self.on_said: Callable[[str], None] = lambda _: None  # to this session, or to all
        self.on_entered: list[Callable[[set[int]], None]] = []  # with the places that are still this session's
        self.holders: list[Callable[[], Iterable[int]]] = []  # of the places that it is known to hold
        self._consumes = False
        self._number: int | None = None
        self._previous: int | None = None
        self._entering = asyncio.Lock()
        self._hearing: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._echoed = False  # whether what it last called to itself came back

    async def number(self) -> int:
        """Return the number, after entering if that is needed. Raises `BrokerUnavailable`."""
        while (number := self._number) is None:
            async with self._entering:
                if self._number is None:
                    await self._enter()
        return number

    async def show_consuming(self) -> None:
        """Have others find this session among those that hold messages of the broker beside this one."""
        self._consumes = True
        await self._database.once("update session set consumes = true where number = %s", (await self.number(),), repeatable=True)

    async def consumers(self) -> list[int]:
        """Return the sessions that live and said that they hold messages of the broker beside this one."""
        return [int(number) for (number,) in await self._database.once(CONSUMES, (), repeatable=True)]

    async def _enter(self) -> None:
        if self._closed:
            raise BrokerUnavailable(f"the connection to {self._database.place} was closed; nothing was stored")
        await self._database.once("select 1", (), repeatable=True)  # the schema is there
        until = asyncio.get_running_loop().time() + self._database.deadline * LATE
        connection: Connection | None = None
        try:
            connection = await self._database.connect()
            async with cut_at(until, connection):
                number, kept = await self._register(connection)
        except BaseException as error:
            if connection is not None:
                await connection.close()
            if isinstance(error, psycopg.Error | OSError):
                raise BrokerUnavailable(f"{self._database.place} did not let this process in: {error}") from None
            raise
        self._number = self._previous = number
        self._connection = connection
        self._hearing = asyncio.get_running_loop().create_task(self._hear(connection, number))
        for told in self.on_entered:
            told(kept)

    async def _register(self, connection: Connection) -> tuple[int, set[int]]:
        """Show that this session lives, and return its number with the places of an earlier one that nobody else has taken."""
        row = await (await connection.execute("select nextval('session_number')")).fetchone()
        assert row is not None
        number, kept = int(row[0]), set[int]()
        await connection.execute("select pg_advisory_lock(%s, %s)", (_LOCKS, number))
        await connection.execute(
            "insert into session (number, name, role, info, consumes) values (%s, %s, %s, %s, %s)",
            (number, self.name, self.role, msgspec.json.encode(self.info), self._consumes),
        )
        if self._previous is not None:
            held = [place for holder in self.holders for place in holder()]
            kept = {int(place) for (place,) in await (await connection.execute(_ADOPT, (number, self._previous, held))).fetchall()}
            await connection.execute("update queue set owner = %s where owner = %s", (number, self._previous))
            await connection.execute(_END, (self._previous,))
        for channel in (READY, ENDED, CANCELLED, ASKED, f"chappe_{number}"):
            await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        await connection.execute("set statement_timeout = 0")
        return number, kept

    async def _hear(self, connection: Connection, number: int) -> None:
        assuring = asyncio.get_running_loop().create_task(self._assure(connection, number))
        try:
            async for notice in connection.notifies():
                mine = notice.channel == f"chappe_{number}"
                self._echoed = self._echoed or mine
                if notice.payload and (mine or notice.channel == ASKED):
                    self.on_said(notice.payload)
                for told in self.on_told:
                    told(notice.channel, notice.payload)
        except psycopg.Error as error:
            log.warning("the connection that shows that this process lives was lost (%s); opening another", str(error).strip())
        finally:
            assuring.cancel()
            self._number = None
            await connection.close()
        while self._number is None:
            try:
                await self.number()
            except BrokerError:
                await asyncio.sleep(_AGAIN)

    async def _assure(self, connection: Connection, number: int) -> None:
        """Close the connection when it brings nothing any more, or the server does not know of it: it may have ended without a word."""
        deadline = self._database.deadline
        while True:
            await asyncio.sleep(deadline * (0.5 - ANSWERS))
            self._echoed = False
            try:
                if not await self._database.once(_CALL, (f"chappe_{number}", number), repeatable=True):
                    break
                await asyncio.sleep(deadline * ANSWERS)
                if not self._echoed:
                    await asyncio.sleep(_AGAIN)  # a loop that was blocked has not read it yet
                if not self._echoed:
                    break
            except BrokerError:
                pass  # a server that is away takes nobody for dead
        await connection.close()

    async def tell(self, info: Mapping[str, Any]) -> None:
        """Replace what others see of this process."""
        self.info = dict(info)
        number = await self.number()
        await self._database.once(
            "update session set info = %s where number = %s", (msgspec.json.encode(self.info), number), repeatable=True
        )

    async def say(self, what: str, session: int | None = None) -> None:
        """Tell all sessions something, or one of them."""
        await self._database.once("select pg_notify(%s, %s)", (ASKED if session is None else f"chappe_{session}", what), repeatable=True)

    def is_named(self, sessions: str) -> bool:
        """Tell whether this session is among some, or nobody is named."""
        return not sessions or str(self._number) in sessions.split()

    async def renew(self) -> None:
        """Begin another session, which takes over what is known to be held, and leaves the rest to others."""
        if self._connection is not None:
            await self._connection.close()

    async def close(self) -> None:
        """Leave."""
        self._closed = True
        hearing, self._hearing = self._hearing, None
        if hearing is not None:
            hearing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await hearing
