"""The topology that all hosts share: read when it changed, written by those who declare."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from chappe.engines.rabbitmq.store.database import Cursor
from chappe.errors import NotFound, TopologyConflict
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Binding, Queue, Topology, merged, takers


class Known(Struct, frozen=True):
    """A queue as it was declared; `lanes` says which other priorities it has seen (1: larger ones, 2: smaller ones)."""

    id: int
    queue: Queue
    lanes: int


class Routes:
    """The exchanges and queues that were declared, as of the last look; `version` counts their changes."""

    def __init__(self) -> None:
        self.version = -1
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Known] = {}
        self.names: dict[int, str] = {}
        self._bindings: dict[str, list[tuple[str, str]]] = {}
        self._cache: dict[tuple[str, str], list[Known]] = {}

    async def refresh(self, cursor: Cursor, *, lock: bool = False) -> None:
        """Look whether anything was declared meanwhile; with `lock` nobody else declares until this transaction ends."""
        await cursor.execute("select version from topology for update" if lock else "select version from topology")
        row = await cursor.fetchone()
        assert row is not None
        if row[0] == self.version:
            return
        await cursor.execute("select name, kind, archive from exchange")
        self.exchanges = {name: Exchange(name, kind, archive) for name, kind, archive in await cursor.fetchall()}
        await cursor.execute("select id, name, bindings, origin, lanes from queue order by id")
        self.queues = {
            name: Known(id_, _queue(name, bindings, origin), lanes) for id_, name, bindings, origin, lanes in await cursor.fetchall()
        }
        self.names = {known.id: name for name, known in self.queues.items()}
        self._bindings = {name: [(b.exchange, b.key) for b in known.queue.bindings] for name, known in self.queues.items()}
        self._cache.clear()
        self.version = int(row[0])

    def forget(self) -> None:
        """Have the next look read everything again: a transaction that had seen more was taken back."""
        self.version = -1

    def queue(self, name: str) -> Known:
        """Return a declared queue, or raise `NotFound` with the names that are known."""
        found = self.queues.get(name)
        if found is None:
            raise NotFound(f'queue "{name}" is not declared; declared are: {", ".join(sorted(self.queues)) or "none"}')
        return found

    async def number(self, cursor: Cursor, name: str) -> int:
        """Return the number of a queue as it is declared now. Raises `NotFound`."""
        await self.refresh(cursor)
        return self.queue(name).id

    def takers(self, exchange: str, routing_key: str) -> list[Known]:
        """Return the queues that take this routing key, or raise `Unroutable`."""
        found = self._cache.get((exchange, routing_key))
        if found is None:
            found = [self.queues[name] for name in takers(self.exchanges, self._bindings, exchange, routing_key)]
            self._cache[exchange, routing_key] = found
        return found

    async def declare(self, cursor: Cursor, topology: Topology) -> bool:
        """Store what is new, and tell whether anything was. Raises `TopologyConflict` before anything was written."""
        await self.refresh(cursor, lock=True)
        exchanges, queues = merged(topology, self.exchanges, {name: known.queue for name, known in self.queues.items()})
        if not exchanges and not queues:
            return False
        for exchange in exchanges.values():
            await cursor.execute("insert into exchange values (%s, %s, %s)", (exchange.name, exchange.kind, exchange.archive))
        for queue in queues.values():
            pairs = msgspec.json.encode([(b.exchange, b.key) for b in queue.bindings]).decode()
            await cursor.execute("insert into queue (name, bindings, origin) values (%s, %s, %s)", (queue.name, pairs, queue.origin))
        await self.changed(cursor)
        return True

    async def changed(self, cursor: Cursor) -> None:
        """Tell everybody, with this transaction, that the topology is another."""
        self.forget()
        await cursor.execute("update topology set version = version + 1")

    async def remove(self, cursor: Cursor, name: str) -> None:
        """Forget a queue that is empty. Raises `TopologyConflict` if it is not."""
        await self.refresh(cursor, lock=True)
        known = self.queue(name)
        await cursor.execute(
            "select (select count(*) from message where queue = %s) + (select count(*) from dead where queue = %s)", (known.id,) * 2
        )
        row = await cursor.fetchone()
        if row is not None and row[0]:
            raise TopologyConflict(f'queue "{name}" still has messages that run or are dead: let them end, retry or discard them first')
        for table in ("held", "attempt", "failure"):
            await cursor.execute(f"delete from {table} where queue = %s", (known.id,))
        await cursor.execute("delete from queue where id = %s", (known.id,))
        await self.changed(cursor)


def _queue(name: str, bindings: Any, origin: str) -> Queue:
    return Queue(name, tuple(Binding(*pair) for pair in bindings), origin)
