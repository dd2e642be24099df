"""The topology that all hosts share: read when it changed, written by those who declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from chappe.engines.contract.fleet import PAUSED, QUEUE
from chappe.engines.postgres.database import Cursor, Database
from chappe.errors import ChappeError, NotFound, TopologyConflict
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Binding, Queue, Topology, merged, takers

_INSERT: Final = """
    insert into queue (name, bindings, origin, owner, fair, paused)
    values (%(name)s, %(bindings)s, %(origin)s, %(owner)s, %(fair)s, coalesce(
        (select value = %(paused)s from desired where what = %(what)s order by number desc limit 1), false))
"""
# Nobody stores anything meanwhile that knows of no tenants.
_BE_FAIR: Final = (
    "lock table message in share row exclusive mode",
    "update queue set fair = true where id = any(%s)",
    "update message set tenant = '' where queue = any(%s) and tenant is null",
)
_DELETE: Final = "delete from queue where id = %s"
_NOT_EMPTY: Final = """
    select (select count(*) from message where queue = %(queue)s) + (select count(*) from running where queue = %(queue)s)
        + (select count(*) from dead where queue = %(queue)s)
"""

_DROP: Final = """
    with gone as (delete from queue where id = any(%s) returning id),
        lines as (delete from line using gone where queue = id),
        messages as (delete from message using gone where queue = id),
        lent as (delete from running using gone where queue = id)
    select id from gone
"""


class Known(Struct, frozen=True):
    """A queue as it was declared; a temporary one goes with the session that is its `owner`."""

    id: int
    queue: Queue
    owner: int | None
    relays: bool = False  # what is in it goes on to the broker beside this one

    @property
    def is_lasting(self) -> bool:
        """Whether it is there for its handlers until somebody deletes it."""
        return self.owner is None and not self.relays


class Routes:
    """The exchanges and queues that were declared, as of the last look; `version` counts their changes.

    Where there is a `relay`, a queue, it takes all that goes through any exchange.
    """

    def __init__(self, relay: str | None = None) -> None:
        self.version = -1
        self.relay = relay
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Known] = {}
        self.by_id: dict[int, Known] = {}
        self._bindings: dict[str, list[tuple[str, str]]] = {}
        self._cache: dict[tuple[str, str], list[Known]] = {}

    async def refresh(self, cursor: Cursor, *, lock: bool = False) -> None:
        """Look whether anything was declared meanwhile; with `lock` nobody else declares until this transaction ends."""
        await cursor.execute("select version from topology for update" if lock else "select version from topology")
        row = await cursor.fetchone()
        assert row is not None
        if row[0] != self.version:
            await self.read(cursor, int(row[0]))

    async def read(self, cursor: Cursor, version: int) -> None:
        """Read everything anew, as of a version."""
        await cursor.execute("select name, kind, archive, archive_bytes from exchange")
        self.exchanges = {str(row[0]): Exchange(*row) for row in await cursor.fetchall()}
        await cursor.execute("select id, name, bindings, origin, owner, fair from queue order by id")
        self.queues = {
            name: Known(number, _queue(name, bindings, origin, fair), owner, name == self.relay)
            for number, name, bindings, origin, owner, fair in await cursor.fetchall()
        }
        self.by_id = {known.id: known for known in self.queues.values()}
        self._bindings = {name: [(b.exchange, b.key) for b in known.queue.bindings] for name, known in self.queues.items()}
        self._cache = {}
        self.version = version

    def forget(self) -> None:
        """Have the next look read everything again: a transaction that had seen more was taken back."""
        self.version = -1

    def queue(self, name: str) -> Known:
        """Return a declared queue, or raise `NotFound` with the names that are known."""
        found = self.queues.get(name)
        if found is None:
            raise NotFound(f'queue "{name}" is not declared; declared are: {", ".join(sorted(self.queues)) or "none"}')
        return found

    async def find(self, cursor: Cursor, name: str) -> Known:
        """Return a queue as it is declared now. Raises `NotFound`."""
        await self.refresh(cursor)
        return self.queue(name)

    async def known(self, database: Database, name: str) -> int:
        """Return the number of a queue as it is declared now. Raises `NotFound`."""
        return (await database.run(lambda cursor: self.find(cursor, name), writes=False)).id

    def takers(self, exchange: str, routing_key: str) -> list[Known]:
        """Return the queues that take this routing key, or raise `Unroutable`."""
        cache = self._cache  # another thread may read anew meanwhile: what is found in the old topology is kept with it
        found = cache.get((exchange, routing_key))
        if found is None:
            found = [self.queues[name] for name in takers(self.exchanges, self._bindings, exchange, routing_key)]
            if exchange and self.relay is not None:
                found.append(self.queues[self.relay])
            cache[exchange, routing_key] = found
        return found

    def archives(self, exchange: str) -> bool:
        """Tell whether what goes through an exchange is archived here."""
        return exchange in self.exchanges and bool(self.exchanges[exchange].archive) and self.relay is None

    def known_takers(self, exchange: str, routing_key: str, *, archives: bool = False) -> list[Known] | None:
        """Return the same if they are known and nothing else is to be done, unless the caller `archives` what is to be archived.

        The long way asks anew, and says what is wrong.
        """
        if exchange in self.exchanges and (self.relay is not None or (self.archives(exchange) and not archives)):
            return None
        try:
            return self.takers(exchange, routing_key)
        except ChappeError:
            return None

    async def declare(self, cursor: Cursor, topology: Topology, owner: int | None = None) -> bool:
        """Store what is new, and tell whether there was anything. Raises `TopologyConflict` before anything was written."""
        await self.refresh(cursor, lock=True)
        exchanges, queues = merged(topology, self.exchanges, {name: known.queue for name, known in self.queues.items()})
        unfair = [k.id for q in topology.queues if q.fair and (k := self.queues.get(q.name)) is not None and not k.queue.fair]
        if not exchanges and not queues and not unfair:
            return False
        if unfair:
            lock, *changes = _BE_FAIR
            await cursor.execute(lock)
            for change in changes:
                await cursor.execute(change, (unfair,))
        for exchange in exchanges.values():
            row = (exchange.name, exchange.kind, exchange.archive, exchange.archive_bytes)
            await cursor.execute("insert into exchange values (%s, %s, %s, %s)", row)
        for queue in queues.values():
            pairs = msgspec.json.encode([(b.exchange, b.key) for b in queue.bindings]).decode()
            wanted = {"paused": PAUSED, "what": f"{QUEUE}{queue.name}", "fair": queue.fair}
            await cursor.execute(_INSERT, {"name": queue.name, "bindings": pairs, "origin": queue.origin, "owner": owner, **wanted})
        await self._changed(cursor)
        return True

    async def remove(self, cursor: Cursor, name: str) -> None:
        """Forget a queue that is empty. Raises `TopologyConflict` if it is not."""
        await self.refresh(cursor, lock=True)
        known = self.queue(name)
        await cursor.execute(_NOT_EMPTY, {"queue": known.id})
        row = await cursor.fetchone()
        if row is not None and row[0]:
            raise TopologyConflict(f'queue "{name}" still has {row[0]} messages that are running or dead; settle or discard them first')
        await cursor.execute(_DELETE, (known.id,))
        await self._changed(cursor)

    async def remove_owned(self, cursor: Cursor, owners: Sequence[int]) -> None:
        """Forget the temporary queues of sessions, with all that is in them."""
        await cursor.execute("select id from queue where owner = any(%s)", (list(owners),))
        if gone := [int(number) for (number,) in await cursor.fetchall()]:
            await self.remove_temporary(cursor, gone)

    async def remove_temporary(self, cursor: Cursor, queues: Sequence[int]) -> None:
        """Forget temporary queues with all that is in them."""
        await cursor.execute(_DROP, (list(queues),))
        await self._changed(cursor)

    async def _changed(self, cursor: Cursor) -> None:
        self.forget()
        await cursor.execute("update topology set version = version + 1")


def _queue(name: str, bindings: Any, origin: str, fair: bool) -> Queue:
    return Queue(name, tuple(Binding(exchange, key) for exchange, key in bindings), origin, fair=fair)
