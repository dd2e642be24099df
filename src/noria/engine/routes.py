"""Which queues a message goes to: the stored topology with a cache of answers."""

from __future__ import annotations

import msgspec

from noria.engine.database import Database
from noria.engine.queues import QueueState
from noria.errors import NotFound, Unroutable
from noria.messages.capabilities import Exchange
from noria.messages.topology import Binding, Queue, Topology, passes, refuse_conflict, refuse_other_kind

_CACHE_LIMIT = 10_000
_counts = msgspec.json.Decoder(tuple[int, int, int]).decode
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
        """Give a declared queue, or raise `NotFound` with the names that are known."""
        found = self.queues.get(name)
        if found is None:
            raise NotFound(f'queue "{name}" is not declared; declared are: {", ".join(sorted(self.queues)) or "none"}')
        return found

    def declare(self, topology: Topology) -> None:
        """Store what is new; raises `TopologyConflict` before anything was written."""
        exchanges = {e.name: e for e in topology.exchanges}
        for exchange in topology.exchanges:
            refuse_other_kind(exchanges[exchange.name], exchange)
            if known := self.exchanges.get(exchange.name):
                refuse_other_kind(known, exchange)
        queues: dict[str, Queue] = {}
        for queue in topology.queues:
            refuse_conflict(queues.setdefault(queue.name, queue), queue)
            if state := self.queues.get(queue.name):
                refuse_conflict(_declared(state), queue)
            for binding in queue.bindings:
                if binding.exchange not in exchanges and binding.exchange not in self.exchanges:
                    raise NotFound(f'queue "{queue.name}" is bound to exchange "{binding.exchange}", which is not declared')
        for exchange in exchanges.values():
            if exchange.name not in self.exchanges:
                self._db.execute("insert into exchange values (?, ?, ?)", (exchange.name, exchange.kind, exchange.archive))
        new: list[QueueState] = []
        for queue in queues.values():
            if queue.name not in self.queues:
                bindings = tuple((b.exchange, b.key) for b in queue.bindings)
                self._db.execute(
                    "insert into queue (name, bindings, origin) values (?, ?, ?)",
                    (queue.name, msgspec.json.encode(bindings).decode(), queue.origin),
                )
                new.append(QueueState(self._db.last_insert_rowid(), queue.name, bindings, queue.origin))
        self.exchanges.update(exchanges)
        for state in new:
            self.queues[state.name] = self.by_id[state.id] = state
        self._cache.clear()

    def knows(self, topology: Topology) -> bool:
        """Tell whether declaring this would store nothing."""
        return all(e.name in self.exchanges for e in topology.exchanges) and all(q.name in self.queues for q in topology.queues)

    def reload(self) -> None:
        """Take what the file says: at the start, and after something was rolled back."""
        self.exchanges = {
            str(name): Exchange(name, kind, archive) for name, kind, archive in self._db.execute("select name, kind, archive from exchange")
        }
        known, self.by_id = self.by_id, {}
        for identity, name, bindings, origin in self._db.execute("select id, name, bindings, origin from queue"):
            self.by_id[identity] = known.get(identity) or QueueState(int(identity), str(name), _bindings(str(bindings)), str(origin))
        self.queues = {queue.name: queue for queue in self.by_id.values()}
        self._count()
        self._cache.clear()

    def _count(self) -> None:
        tally = dict(self._db.execute("select name, value from tally where name >= 'queue ' and name < 'queue!'").fetchall())
        for queue in self.by_id.values():
            queue.rows, queue.delayed, queue.dead = _counts(tally.get(f"queue {queue.id}", b"[0,0,0]"))

    def close(self, queue: QueueState, *, closed: bool) -> None:
        """Route nothing more to a queue that is about to be removed, or route to it again."""
        queue.closed = closed
        self._cache.clear()

    def remove(self, queue: QueueState) -> None:
        """Forget a queue that is empty, and its bindings."""
        self._db.execute("delete from queue where id = ?", (queue.id,))
        self._db.execute("delete from tally where name = ?", (f"queue {queue.id}",))
        del self.queues[queue.name], self.by_id[queue.id]
        self._cache.clear()

    def match(self, exchange: str, routing_key: str) -> tuple[QueueState, ...]:
        """Give the queues that take this routing key, or raise `Unroutable`; an archive is taker enough."""
        found = self._cache.get((exchange, routing_key))
        if found is None:
            found = self._match(exchange, routing_key)
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            self._cache[exchange, routing_key] = found
        return found

    def _match(self, exchange: str, routing_key: str) -> tuple[QueueState, ...]:
        if exchange == "":
            queue = self.queues.get(routing_key)
            if queue is None or queue.closed:
                raise Unroutable(f'no queue is called "{routing_key}"; declare it by starting the application that handles it')
            return (queue,)
        known = self.exchanges.get(exchange)
        if known is None:
            raise Unroutable(f'no exchange is called "{exchange}"; declared are: {", ".join(sorted(self.exchanges)) or "none"}')
        takers = tuple(
            q
            for q in self.queues.values()
            if not q.closed and any(b[0] == exchange and passes(known.kind, b[1], routing_key) for b in q.bindings)
        )
        if not takers and known.archive == 0:
            raise Unroutable(f'no queue takes "{routing_key}" from exchange "{exchange}"; bind one, or archive the exchange')
        return takers


def _declared(state: QueueState) -> Queue:
    return Queue(state.name, tuple(Binding(*b) for b in state.bindings), state.origin)
