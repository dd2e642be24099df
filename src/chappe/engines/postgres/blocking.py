"""Publishing for threads without an event loop: plain messages and those that only merge, over one connection that they share.

A synchronous send that goes through another thread's loop costs two changes of thread each way. One connection for all threads, because
PostgreSQL has few: a web server with forty threads in each of eight processes would take them all.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, LiteralString, TypeVar, cast

import psycopg
from psycopg.waiting import Ready, Wait

from chappe.clocks import steady
from chappe.engines.postgres.database import AGAIN, ANSWERS, FINGERPRINT, LATE, QUIET, Cursor, Database, Row, Values, reason
from chappe.engines.postgres.journeys import Masks, is_mask, plain, takers_of
from chappe.engines.postgres.routes import Known, Routes
from chappe.errors import BrokerUnavailable, ChappeError, CorruptStorage, Rejected, StorageFull, Unconfirmed
from chappe.messages.envelope import Publication, Receipt
from chappe.messages.topology import Topology
from chappe.stepping import stepped

T = TypeVar("T")
_Statements = Sequence[tuple[LiteralString, Values]]

_inherited: Final[list[object]] = []  # what a forked child never touches
_ROUNDS: Final = 5
_MOST: Final = 2  # statements of a transaction
# Parts of the deadline: what must be left of it for a new connection, and after which a server is silent.
_CONNECTING: Final = 0.4
_SLOW: Final = 0.1


class PostgresPublisher:
    """Publishes plain messages, and one that only merges, to queues that are known; for all else an event loop is needed."""

    def __init__(self, url: str, topology: Callable[[], Topology], *, deadline: float, relay: str | None = None) -> None:
        """Prepare; `topology` is declared before the first publication, `deadline` is in seconds; for `relay` see `Routes`."""
        self._database = Database(url, deadline=deadline)
        self._topology = topology
        self._deadline = deadline
        self._routes = Routes(relay)
        self._masks = Masks(self._routes)
        self._declared: Topology | None = None
        self._connection: _Bounded | None = None
        self._process = os.getpid()
        self._using = threading.Lock()
        self._user = 0  # the thread that has the lock

    def takes(self, publications: Sequence[Publication]) -> bool:
        """Tell whether this thread can publish these now."""
        if self._user == threading.get_ident() or self._process != os.getpid():  # a signal interrupted it
            return False
        if any(p.options is not None or p.delay > 0 for p in publications) and not is_mask(publications):
            return False
        if self._declared is not self._topology():
            began = steady()
            try:
                self._alone(self._declare)
            except (psycopg.Error, OSError, ChappeError) as error:
                if steady() - began > _SLOW * self._deadline:  # an event loop would wait as long once more
                    raise self._silent(error) from None
                return False  # an event loop makes the schema, or says what is wrong
        return self._are_taken(publications)

    def _are_taken(self, publications: Sequence[Publication]) -> bool:
        return self._masks.queue(publications[0]) is not None if is_mask(publications) else self._takers(publications) is not None

    def _takers(self, publications: Sequence[Publication]) -> list[list[Known]] | None:
        found = takers_of(self._routes, publications)
        return None if found is None or any(known.owner is not None for queues in found for known in queues) else found

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        """See `Broker.publish`; it never suspends, so that it can be stepped without an event loop."""
        return self._alone(lambda until: self._store(publications, until))

    def close(self) -> None:
        """Close the connection, when what is being said over it is answered."""
        if self._process != os.getpid():
            return
        with self._using:
            self._leave()

    # --- one thread at a time

    def _alone(self, work: Callable[[float], T]) -> T:
        until = steady() + self._deadline * LATE
        is_mine = self._using.acquire(timeout=self._deadline * LATE)
        if not is_mine or (self._connection is None and until - steady() < self._deadline * _CONNECTING):
            if is_mine:
                self._using.release()
            raise BrokerUnavailable(f"{self._database.place}: other threads were in the way for too long; nothing was stored, try again")
        self._user = threading.get_ident()
        try:
            return work(until)
        except BaseException:
            self._leave()  # nobody knows what comes over it next
            raise
        finally:
            self._user = 0
            self._using.release()

    def _declare(self, until: float) -> None:
        topology, connection = self._topology(), self._connected(until)
        with connection.transaction(), connection.cursor(binary=True) as cursor:
            if cursor.execute("select fingerprint from made_by").fetchone() != (FINGERPRINT,):
                raise CorruptStorage(f"{self._database.place}: the tables are those of another release")
            stepped(self._routes.declare(cast("Cursor", _Awaited(cursor)), topology))
        self._read(until)
        self._declared = topology

    def _read(self, until: float) -> None:
        connection = self._connected(until)
        with connection.transaction(), connection.cursor(binary=True) as cursor:
            stepped(self._routes.refresh(cast("Cursor", _Awaited(cursor))))

    def _store(self, publications: Sequence[Publication], until: float) -> list[Receipt]:
        store = self._store_plain if publications[0].options is None else self._store_mask
        for _ in range(_ROUNDS):
            if (receipts := store(publications, until)) is not None:
                return receipts
            try:
                self._read(until)  # somebody declared something meanwhile
            except (psycopg.Error, OSError) as error:
                raise self._silent(error) from None
            if not self._are_taken(publications):
                break
        raise BrokerUnavailable(f"{self._database.place}: what is declared changes meanwhile; nothing was stored, try again")

    def _store_plain(self, publications: Sequence[Publication], until: float) -> list[Receipt] | None:
        if (taken := self._takers(publications)) is None:  # another thread has read the routes anew since they were judged
            return None
        if (statement := plain(self._routes, publications, taken)) is not None:
            (rows,) = self._together([statement], until, repeatable=False)
            if not rows:
                return None
        return [Receipt(p.envelope.id) for p in publications]

    def _store_mask(self, publications: Sequence[Publication], until: float) -> list[Receipt] | None:
        async def together(statements: _Statements, *, repeatable: bool) -> list[list[Row]]:
            return self._together(statements, until, repeatable=repeatable)

        return stepped(self._masks.publish(publications, together))

    def _together(self, statements: _Statements, until: float, *, repeatable: bool) -> list[list[Row]]:
        """Execute statements in one transaction, and return the rows of each. Raises as `Database.together` does."""
        place, tries = self._database.place, 0
        while True:
            tries += 1
            try:
                connection = self._connected(until)
            except (psycopg.Error, OSError) as error:
                raise self._silent(error) from None
            try:
                return _executed(connection, statements)
            except AGAIN as error:
                if tries >= _ROUNDS:
                    raise BrokerUnavailable(f"{place}: others were in the way ({reason(error)}); nothing was stored, try again") from None
            except psycopg.errors.DiskFull as error:
                raise StorageFull(f"{place} has no room to store more ({reason(error)}); nothing was lost") from None
            except psycopg.errors.QueryCanceled as error:
                raise self._silent(error) from None
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                if not repeatable or tries > 1 or until - steady() < self._deadline * _CONNECTING:
                    raise Unconfirmed(f"{place} was lost while it stored something ({reason(error)}): it may be stored or not") from None
                self._leave()
            except psycopg.DataError as error:
                raise Rejected(f"PostgreSQL cannot store this: {reason(error)}") from None
            except psycopg.Error as error:
                raise BrokerUnavailable(f"{place} refused: {reason(error)}; nothing was stored") from None

    def _silent(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(f"{self._database.place} did not answer within {self._deadline:g} s ({reason(error)}); nothing was stored")

    def _connected(self, until: float) -> _Bounded:
        """Return the connection, after opening it if that is needed. Raises `psycopg.Error`."""
        if self._connection is not None and not self._connection.is_heard(min(until, steady() + self._deadline * ANSWERS)):
            self._leave()
        if self._connection is None:
            self._connection = _Bounded.connect(self._database.url, **self._database.parameters())
        self._connection.until = until
        return self._connection

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._process != os.getpid():
                _inherited.append(connection)
                return
            with suppress(psycopg.Error, OSError):
                connection.close()


class _Bounded(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose answers are waited for until a time of the steady clock."""

    until = 0.0
    _heard_at = 0.0

    @cached_property
    def cursors(self) -> list[psycopg.Cursor[tuple[Any, ...]]]:
        """As many cursors as are needed at most: making one takes as long as a fifth of what is said over it."""
        return [self.cursor(binary=True) for _ in range(_MOST)]

    @cached_property
    def _quiet(self) -> select.poll:
        look = select.poll()
        look.register(self.fileno(), select.POLLIN)
        return look

    def is_heard(self, until: float) -> bool:
        """Tell whether it is open, and the server has said nothing since the last answer: what it says then is mostly goodbye.

        Where that was a while ago, it is asked, until some time: a network may have forgotten it without a word.
        """
        if self.closed or self._quiet.poll(0):
            return False
        if steady() - self._heard_at <= QUIET:
            return True
        self.until = until
        with suppress(psycopg.Error, OSError):
            self.execute("select 1")
            return True
        return False

    def wait(self, gen: Generator[Wait, Ready, T], *_: Any, **__: Any) -> T:
        """Run one conversation with the server. Raises `TimeoutError` when it is over."""
        look = select.poll()
        wanted: int | None = None
        try:
            state = next(gen)
            while True:
                events = (select.POLLIN if state & Wait.R else 0) | (select.POLLOUT if state & Wait.W else 0)
                if events != wanted:
                    look.register(self.pgconn.socket, events)
                    wanted = events
                left = self.until - steady()
                happened = look.poll(max(0.0, left) * 1000)
                if not happened:
                    raise TimeoutError("no answer")
                ready = (Ready.R if happened[0][1] & ~select.POLLOUT else 0) | (Ready.W if happened[0][1] & ~select.POLLIN else 0)
                state = gen.send(Ready(ready))
        except StopIteration as ended:
            self._heard_at = steady()
            return cast("T", ended.value)


def _executed(connection: _Bounded, statements: _Statements) -> list[list[Row]]:
    cursors = connection.cursors[: len(statements)]
    if len(cursors) == 1:
        cursors[0].execute(*statements[0], prepare=True)
    else:
        with connection.pipeline(), connection.transaction():
            for cursor, (statement, values) in zip(cursors, statements, strict=True):
                cursor.execute(statement, values, prepare=True)
    return [cursor.fetchall() if cursor.description else [] for cursor in cursors]


class _Awaited:
    """A cursor whose answers are there when they are awaited, for what is written for an event loop."""

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        self._cursor = cursor

    async def execute(self, *arguments: Any) -> None:
        self._cursor.execute(*arguments)

    async def fetchone(self) -> tuple[Any, ...] | None:
        return self._cursor.fetchone()

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._cursor.fetchall()
