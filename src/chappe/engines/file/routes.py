"""Which queues a message goes to: the stored topology with a cache of answers."""

from __future__ import annotations

import msgspec

from chappe.engines.contract.fleet import PAUSED, QUEUE
from chappe.engines.file.database import Database
from chappe.engines.file.queues import Counts, QueueState
from chappe.errors import NotFound
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Binding, Queue, Topology, merged, takers

_CACHE_LIMIT = 10_000
_QUEUES = "select id, name, bindings, origin, owner from queue left join temporary_queue on queue.id = temporary_queue.queue"
_PAUSED = "select what from desired where number in (select max(number) from desired group by what) and value = ?"
_counts = msgspec.json.Decoder(Counts).decode
_bindings = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode


class Routes:
    """The exchanges and queues of one file."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, QueueState] = {}
        self.by_id: dict[int, QueueState] = {}
        self._cache: dict[tuple[str, str], tuple[QueueState, ...]] = {}
        self.reload()

    def queue(self, name: str) -> QueueState:
        """Return a declared queue, or raise `NotFound` with the names that are known."""
        found = self.queues.get(name)
        if found is None:
            raise NotFound(f'queue "{name}" is not declared; declared are: {", ".join(sorted(self.queues)) or "none"}')
        return found

    def declare(self, topology: Topology, *, owner: str = "") -> None:
        """Store what is new, as what goes with its owner if there is one; raises `TopologyConflict` before anything was written."""
        exchanges, queues = merged(topology, self.exchanges, {state.name: _declared(state) for state in self.queues.values()})
        for exchange in exchanges.values():
            row = (exchange.name, exchange.kind, exchange.archive, exchange.archive_bytes)
            self._db.execute("insert into exchange values (?, ?, ?, ?)", row)
        new: list[QueueState] = []
        for queue in queues.values():
            bindings = tuple((b.exchange, b.key) for b in queue.bindings)
            self._db.execute(
                "insert into queue (name, bindings, origin) values (?, ?, ?)",
                (queue.name, msgspec.json.encode(bindings).decode(), queue.origin),
            )
            new.append(QueueState(self._db.last_insert_rowid(), queue.name, bindings, queue.origin, owner))
            if owner:
                self._db.execute("insert into temporary_queue values (?, ?)", (new[-1].id, owner))
        self.exchanges.update(exchanges)
        for state in new:
            self.queues[state.name] = self.by_id[state.id] = state
        if new:
            self._pause()
        self._cache.clear()

    def knows(self, topology: Topology) -> bool:
        """Tell whether declaring this would store nothing."""
        return all(e.name in self.exchanges for e in topology.exchanges) and all(q.name in self.queues for q in topology.queues)

    def reload(self) -> None:
        """Take what the file says: at the start, and after something was rolled back."""
        self.exchanges = {
            str(row[0]): Exchange(*row) for row in self._db.execute("select name, kind, archive, archive_bytes from exchange")
        }
        known, self.by_id = self.by_id, {}
        for identity, name, bindings, origin, owner in self._db.execute(_QUEUES):
            self.by_id[identity] = known.get(identity) or QueueState(int(identity), name, _bindings(bindings), origin, owner or "")
        self.queues = {queue.name: queue for queue in self.by_id.values()}
        self._count()
        self._pause()
        self._cache.clear()

    def _count(self) -> None:
        tally = dict(self._db.execute("select name, value from tally where name >= 'queue ' and name < 'queue!'").fetchall())
        for queue in self.by_id.values():
            queue.take(_counts(tally.get(f"queue {queue.id}", b"[]")))

    def _pause(self) -> None:
        paused = {str(what).removeprefix(QUEUE) for (what,) in self._db.execute(_PAUSED, (PAUSED,))}
        for queue in self.queues.values():
            queue.paused = queue.name in paused

    def remove(self, queue: QueueState) -> None:
        """Forget a queue that is empty, and its bindings."""
        self._db.execute("delete from queue where id = ?", (queue.id,))
        self._db.execute("delete from temporary_queue where queue = ?", (queue.id,))
        self._db.execute("delete from tally where name = ?", (f"queue {queue.id}",))
        del self.queues[queue.name], self.by_id[queue.id]
        self._cache.clear()

    def match(self, exchange: str, routing_key: str) -> tuple[QueueState, ...]:
        """Return the queues that take this routing key, or raise `Unroutable`; an archive is taker enough."""
        found = self._cache.get((exchange, routing_key))
        if found is None:
            found = self._match(exchange, routing_key)
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            self._cache[exchange, routing_key] = found
        return found

    def _match(self, exchange: str, routing_key: str) -> tuple[QueueState, ...]:
        bound = {queue.name: queue.bindings for queue in self.queues.values()}
        return tuple(self.queues[name] for name in takers(self.exchanges, bound, exchange, routing_key))


def _declared(state: QueueState) -> Queue:
    return Queue(state.name, tuple(Binding(*b) for b in state.bindings), state.origin)
