"""What becomes of publications: routed, refused, merged, remembered by their keys, and stored as rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Raw

from chappe.bounds import IDEMPOTENCY_KEPT
from chappe.engines.dispatch import FAIR
from chappe.engines.file import archiving
from chappe.engines.file.archiving import Archived
from chappe.engines.file.queues import HAS_FILE, MERGES, TRACKED, UNIQUE, QueueState
from chappe.engines.file.seal import seal, unseal
from chappe.engines.file.turn import ARCHIVED, DELAY, INSERT, INSERT_FAIR, Turn
from chappe.engines.file.wire import Posted
from chappe.errors import CorruptStorage, KeyReused, Unroutable

_PENDING = "select id, due, rank, version from pending where queue = ? and key = ?"
_REPLACE_READY = "update ready set envelope = ?, flags = flags | ? where queue = ? and rank = ? and id = ? returning message_id"
_REPLACE_DELAYED = "update delayed set envelope = ?, flags = flags | ? where due = ? and id = ? returning message_id"


class Intake:
    """The way into the messages of one file."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def publish(self, posted: Sequence[Posted]) -> list[Any]:
        """Store publications, all or none, and return their receipts."""
        routes = self._routes(posted)
        now = self._turn.now()
        receipts: list[Any] = []
        rows: list[tuple[Any, ...]] = []
        arrived: dict[tuple[QueueState, int], int] = {}
        archived: list[Archived] = []
        next_id = self._turn.next_id
        for p, queues in zip(posted, routes, strict=True):
            options = p.options
            envelope = seal(p.envelope)
            if p.body_file is not None:
                self._turn.body_files.add(p.body_file)
            flags = 0 if p.body_file is None else HAS_FILE
            if options is None and p.delay <= 0:
                rank = -p.priority
                for queue in queues:
                    if queue.line.shares is not None:
                        self._turn.write()
                        self._insert(queue, rank, p, envelope, flags, None, now)
                        continue
                    rows.append((queue.id, rank, next_id(), p.message_id, 0, flags, None, None, envelope))
                    arrived[queue, rank] = arrived.get((queue, rank), 0) + 1
                receipts.append((p.message_id,))
            else:
                receipts.append(self._publish_special(p, envelope, queues, flags, now))
            if p.exchange and receipts[-1][1:2] in ((), ("stored",)):
                self._turn.passing.append((p.exchange, len(queues)))
                exchange = self._turn.routes.exchanges[p.exchange]
                if exchange.archive:
                    archived.append((p, envelope))
        if rows or archived:
            self._turn.write()
        if rows:
            self._turn.db.executemany(INSERT, rows)
        for (queue, rank), count in arrived.items():
            queue.arrived(rank, count)
            self._turn.changed.add(queue)
        if archived:
            self._turn.finished.append(ARCHIVED)
            self._turn.db.executemany(archiving.INSERT, archiving.rows(archived, archiving.end_of(self._turn.db), now))
        return receipts

    def _routes(self, posted: Sequence[Posted]) -> list[tuple[QueueState, ...]]:
        """Return the queues of each, or refuse all for one that cannot be stored."""
        routes = [self._turn.routes.match(p.exchange, p.routing_key) for p in posted]
        fingerprints: dict[str, str | None] = {}
        for p, queues in zip(posted, routes, strict=True):
            if p.options is None:
                continue
            if p.options.merges and len(lasting := _lasting(queues)) > 1:
                names = ", ".join(queue.name for queue in lasting)
                raise Unroutable(f'"{p.routing_key}" goes to several queues ({names}): a message that merges can wait in one only')
            if p.options.idempotency_key is not None:
                self._refuse_reuse(p, fingerprints.setdefault(p.options.idempotency_key, p.options.fingerprint))
        return routes

    def _publish_special(self, p: Posted, envelope: bytes, queues: Iterable[QueueState], flags: int, now: float) -> tuple[Any, ...]:
        options = p.options
        own = flags
        key: str | None = None
        if options is not None:
            taken = self._taken(p, now)
            if taken is not None:
                return (taken, "duplicate")
            key = options.key
            flags |= (TRACKED if options.tracked else 0) | (UNIQUE if options.unique else 0) | (MERGES if options.merges else 0)
        version: int | None = None
        lasting = _lasting(queues)
        for queue in lasting:
            if flags & MERGES and key is not None:
                answer = self._merge(p, envelope, queue, key, flags, now)
                if answer is not None:
                    return answer
            self._turn.write()
            version = self._insert(queue, -p.priority, p, envelope, flags, key, now)
        for queue in queues:
            if queue.owner:  # what becomes of it there is nobody else's matter
                self._turn.write()
                self._insert(queue, -p.priority, p, envelope, own, key, now)
        if options is not None:
            self._remember_keys(p, now)
            if flags & TRACKED:
                first = next(iter(lasting), None)
                self._turn.db.execute(
                    "insert or ignore into tracked (message_id, type, state, queue, at) values (?, ?, ?, ?, ?)",
                    (p.message_id, p.type, "delayed" if p.delay > 0 else "ready", first.name if first else "", now),
                )
        return (p.message_id, "stored", version) if flags & MERGES else (p.message_id,)

    def _insert(self, queue: QueueState, rank: int, p: Posted, envelope: bytes, flags: int, key: str | None, now: float) -> int:
        identity = self._turn.next_id()
        due = now + p.delay if p.delay > 0 else None
        tenant = None if p.options is None else p.options.tenant
        flags |= 0 if tenant is None else FAIR
        if due is None and (tenant is not None or queue.line.shares is not None):
            queue.shares(self._turn.weights)
            self._turn.db.execute(
                INSERT_FAIR, (queue.id, rank, identity, p.message_id, 0, flags | FAIR, key, None, envelope, None, tenant or "")
            )
            queue.arrived(rank, 1, tenant or "", identity)
        elif due is None:
            self._turn.db.execute(INSERT, (queue.id, rank, identity, p.message_id, 0, flags, key, None, envelope))
            queue.arrived(rank, 1)
        else:
            self._turn.db.execute(DELAY, (due, identity, queue.id, rank, p.message_id, 0, flags, key, None, envelope, None))
            queue.delayed += 1
            queue.published += 1
            self._turn.due_at(due)
        self._turn.changed.add(queue)
        if flags & MERGES:
            self._turn.db.execute(
                "insert into pending (queue, key, id, due, rank, version) values (?, ?, ?, ?, ?, ?)",
                (queue.id, key, identity, due, rank, identity),
            )
        return identity

    def _merge(self, p: Posted, envelope: bytes, queue: QueueState, key: str, flags: int, now: float) -> tuple[Any, ...] | None:
        """Put a merged message in the place of the pending one, or say what is pending; None if nothing is."""
        found = self._turn.db.execute(_PENDING, (queue.id, key)).fetchone()
        if found is None:
            return None if p.options is None or p.options.replaces is None else (p.message_id, "pending")
        identity, due, rank, version = found
        options = p.options
        assert options is not None
        if options.replaces != version:
            return self._shown(queue, key, found) or self._merge(p, envelope, queue, key, flags, now)
        self._turn.write()
        if due is None:
            sql, place = _REPLACE_READY, (envelope, flags, queue.id, rank, identity)
        else:
            sql, place = _REPLACE_DELAYED, (envelope, flags, due, identity)
        (message_id,) = self._turn.db.execute(sql, place).fetchone()
        version = self._turn.next_id()
        self._turn.db.execute("update pending set version = ? where queue = ? and key = ?", (version, queue.id, key))
        if options.tracked:
            self._turn.db.executemany(
                "insert or ignore into tracked (message_id, type, state, queue, at, into_id) values (?, ?, 'ready', ?, ?, ?)",
                [(merged, p.type, queue.name, now, message_id) for merged in options.merged_ids if merged != message_id],
            )
        for merged in options.merged_ids:
            self._remember_keys(p, now, merged)
        return (message_id, "merged", version)

    def _shown(self, queue: QueueState, key: str, pending: tuple[int, float | None, int, int]) -> tuple[Any, ...] | None:
        """Return an answer that shows what is pending, or forget a message that the disk changed: it is found out when it is to be lent."""
        identity, due, rank, version = pending
        if due is None:
            sql, place = "select message_id, envelope from ready where queue = ? and rank = ? and id = ?", (queue.id, rank, identity)
        else:
            sql, place = "select message_id, envelope from delayed where due = ? and id = ?", (due, identity)
        message_id, stored = self._turn.db.execute(sql, place).fetchone()
        try:
            return (message_id, "pending", version, Raw(unseal(stored)))
        except CorruptStorage:
            self._turn.write()
            self._turn.db.execute("delete from pending where queue = ? and key = ?", (queue.id, key))
            return None

    def _refuse_reuse(self, p: Posted, first: str | None) -> None:
        options = p.options
        assert options is not None
        row = self._turn.db.execute(
            "select fingerprint from idempotency where name = ? and until > ?", (options.idempotency_key, self._turn.now())
        ).fetchone()
        if first != options.fingerprint or (row is not None and row[0] != (options.fingerprint or "")):
            raise KeyReused(f'idempotency key "{options.idempotency_key}" came with another body before; use a new key for a new request')

    def _taken(self, p: Posted, now: float) -> str | None:
        options = p.options
        assert options is not None
        if options.idempotency_key is not None:
            row = self._turn.db.execute(
                "select message_id from idempotency where name = ? and until > ?", (options.idempotency_key, now)
            ).fetchone()
            if row is not None:
                return str(row[0])
        if options.unique is not None:
            row = self._turn.db.execute(
                "select message_id from unique_key where name = ? and (until is null or until > ?)", (options.unique, now)
            ).fetchone()
            if row is not None:
                return str(row[0])
        return None

    def _remember_keys(self, p: Posted, now: float, message_id: str | None = None) -> None:
        options = p.options
        assert options is not None
        identity = message_id or p.message_id
        if options.idempotency_key is not None:
            self._turn.db.execute(
                "insert or replace into idempotency values (?, ?, ?, ?)",
                (options.idempotency_key, identity, options.fingerprint or "", now + IDEMPOTENCY_KEPT),
            )
        if options.unique is not None:
            until = None if options.unique_for is None else now + options.unique_for
            self._turn.db.execute("insert or replace into unique_key values (?, ?, ?)", (options.unique, identity, until))

    def conflicts(self, posted: Sequence[Posted]) -> list[Any]:
        """Return a receipt for each publication if any of them must be merged first, or nothing.

        Two of one key in one call are in conflict too: the caller merges them before it asks.
        """
        names: set[tuple[str, str]] = set()
        places: set[tuple[int, str]] = set()
        receipts = [self._conflict(p, names, places) for p in posted]
        return [r or (p.message_id,) for p, r in zip(posted, receipts, strict=True)] if any(receipts) else []

    def _conflict(self, p: Posted, names: set[tuple[str, str]], places: set[tuple[int, str]]) -> tuple[Any, ...] | None:
        options = p.options
        if options is None:
            return None
        keys = {(kind, name) for kind, name in (("idempotency", options.idempotency_key), ("unique", options.unique)) if name is not None}
        if keys & names or self._taken(p, self._turn.now()) is not None:
            return None  # a duplicate, which is not stored
        names |= keys
        if not options.merges or options.key is None:
            return None
        for queue in _lasting(self._turn.routes.match(p.exchange, p.routing_key)):
            row = self._turn.db.execute(_PENDING, (queue.id, options.key)).fetchone()
            if (queue.id, options.key) in places or (row is None and options.replaces is not None):
                return (p.message_id, "pending")
            places.add((queue.id, options.key))
            if row is not None and row[3] != options.replaces:
                return self._shown(queue, options.key, row) or self._conflict(p, names, places - {(queue.id, options.key)})
        return None


def _lasting(queues: Iterable[QueueState]) -> list[QueueState]:
    """Return those that nobody owns: only they count where a message is merged, unique or tracked."""
    return [queue for queue in queues if not queue.owner]
