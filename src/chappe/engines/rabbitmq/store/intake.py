"""The way into the copies: publications are routed, refused, merged, remembered by their keys, and stored as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString, NamedTuple

from chappe.bounds import IDEMPOTENCY_KEPT
from chappe.engines.rabbitmq.outbox import Ticket
from chappe.engines.rabbitmq.store.database import Collision, Cursor
from chappe.engines.rabbitmq.store.envelopes import decode, encode
from chappe.engines.rabbitmq.store.routes import Known, Routes
from chappe.errors import KeyReused, Unroutable
from chappe.messages.envelope import Envelope, Options, Publication, Receipt

# Flags of a copy: what else must be tidied up when it ends. RETURNED: it was lent before, and who had it then may have begun it.
TRACKED, UNIQUE, HISTORY, MERGES, RETURNED = 1, 2, 4, 8, 16
DELAYED, READY, RUNNING = 0, 1, 2
HIGH, LOW = 1, 2

_INSERT: Final[LiteralString] = """
    insert into message (
        place, number, queue, rank, message_id, state, due, flags, key, version, ticketed, sent, exchange, routing_key, envelope
    ) values (
        %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, false, %s, %s, %s
    )
"""
PENDING: Final = "select message_id, version, envelope from message where queue = %s and key = %s and pending"
_MERGE: Final = """
    update message set envelope = %s, flags = flags | %s, version = nextval('place')
    where queue = %s and key = %s and pending and version = %s returning message_id, version
"""
_ALLOT: Final = """
    select now_seconds(), array(select nextval('publication') from generate_series(1, %s)),
        array(select nextval('place') from generate_series(1, %s))
"""
_TAKE_IDEMPOTENCY: Final = """
    insert into idempotency values (%s, %s, %s, now_seconds() + %s) on conflict (name) do update
    set message_id = excluded.message_id, fingerprint = excluded.fingerprint, until = excluded.until
    where idempotency.until <= now_seconds() or idempotency.message_id = excluded.message_id
"""
_TAKE_UNIQUE: Final = """
    insert into unique_key values (%s, %s, now_seconds() + %s) on conflict (name) do update
    set message_id = excluded.message_id, until = excluded.until
    where unique_key.until <= now_seconds() or unique_key.message_id = excluded.message_id
"""


class _Place(NamedTuple):
    """When a publication is stored, its number, and the place of each of its copies."""

    now: float
    number: int
    places: Sequence[int]


class Intake:
    """Stores publications inside the transactions of others."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def publish(self, cursor: Cursor, publications: Sequence[Publication]) -> tuple[list[Receipt], list[Ticket]]:
        """Store publications, all or none, but for those that are *duplicate* or *pending*."""
        if not publications:
            return [], []
        await self._routes.refresh(cursor)
        taken = [self._takers(p) for p in publications]
        await self._open_lanes(cursor, publications, taken)
        copies = sum(max(1, len(queues)) for queues in taken)
        await cursor.execute(_ALLOT, (len(publications), copies))
        row = await cursor.fetchone()
        assert row is not None
        now, numbers, places = float(row[0]), [int(number) for number in row[1]], iter([int(place) for place in row[2]])
        receipts: list[Receipt] = []
        tickets: list[Ticket] = []
        rows: list[tuple[Any, ...]] = []
        fingerprints: dict[str, str | None] = {}
        for p, queues, number in zip(publications, taken, numbers, strict=True):
            mine = [next(places) for _ in range(max(1, len(queues)))]
            if p.options is None:
                rows += [_row(p, now, number, place, queue) for place, queue in zip(mine, queues or [None], strict=True)]
                receipts.append(Receipt(p.envelope.id))
            else:
                receipts.append(await self._special(cursor, p, p.options, _Place(now, number, mine), queues, fingerprints))
            if receipts[-1].outcome == "stored" and p.delay <= 0:
                tickets += _tickets(p, number, queues)
        if rows:
            await cursor.executemany(_INSERT, rows)
        return receipts, tickets

    async def publish_whole(self, cursor: Cursor, publications: Sequence[Publication]) -> tuple[list[Receipt], list[Ticket]]:
        """Store publications, or give receipts of which some are *pending*: then the caller must take everything back."""
        receipts, tickets = await self.publish(cursor, publications)
        mine = {r.id for r in receipts if r.outcome == "stored"}
        return [
            Receipt(p.envelope.id, "pending") if r.outcome == "pending" and r.id in mine else r
            for p, r in zip(publications, receipts, strict=True)
        ], tickets

    def _takers(self, p: Publication) -> list[Known]:
        queues = self._routes.takers(p.exchange, p.routing_key)
        if len(queues) > 1 and p.options is not None and p.options.merges:
            names = ", ".join(known.queue.name for known in queues)
            raise Unroutable(f'"{p.routing_key}" goes to several queues ({names}): a message that merges can wait in one only')
        return queues

    async def _open_lanes(self, cursor: Cursor, publications: Sequence[Publication], taken: Sequence[list[Known]]) -> None:
        wanted: dict[int, int] = {}
        for p, queues in zip(publications, taken, strict=True):
            for known in queues if p.priority else ():
                lane = HIGH if p.priority > 0 else LOW
                if not known.lanes & lane:
                    wanted[known.id] = wanted.get(known.id, 0) | lane
        for identity, lanes in sorted(wanted.items()):
            await cursor.execute("update queue set lanes = lanes | %s where id = %s", (lanes, identity))
        if wanted:
            await self._routes.changed(cursor)

    async def _special(
        self, cursor: Cursor, p: Publication, options: Options, allotted: _Place, queues: Sequence[Known],
        fingerprints: dict[str, str | None],
    ) -> Receipt:  # fmt: skip
        now, number, places = allotted
        first = await self._taken(cursor, options, fingerprints)
        if first is not None:
            return Receipt(first, "duplicate")
        flags = (TRACKED if options.tracked else 0) | (UNIQUE if options.unique else 0) | (MERGES if options.merges else 0)
        if options.merges and options.key is not None and queues:
            row = _row(p, now, number, places[0], queues[0], flags, options)
            receipt = await self._merge(cursor, p, options, row, queues[0], flags)
            if receipt.outcome != "stored":
                return receipt
        else:
            await cursor.executemany(
                _INSERT, [_row(p, now, number, place, queue, flags, options) for place, queue in zip(places, queues or [None], strict=True)]
            )
            receipt = Receipt(p.envelope.id)
        await self._remember(cursor, options, p.envelope.id)
        if options.tracked:
            await cursor.execute(
                "insert into tracked (message_id, type, state, queue, at) values (%s, %s, 'ready', %s, now_seconds())"
                " on conflict do nothing",
                (p.envelope.id, p.envelope.type, queues[0].queue.name if queues else ""),
            )
        return receipt

    async def _merge(self, cursor: Cursor, p: Publication, options: Options, first: tuple[Any, ...], queue: Known, flags: int) -> Receipt:
        """Put a merged message in the place of the pending one, or a first one in the queue, or say what is pending."""
        if options.replaces is not None:
            await cursor.execute(_MERGE, (encode(p.envelope), flags, queue.id, options.key, options.replaces))
            row = await cursor.fetchone()
            if row is None:
                return await self._pending(cursor, options, queue) or Receipt(p.envelope.id, "pending")
            await self._follow(cursor, p, options, str(row[0]), queue)
            return Receipt(str(row[0]), "merged", int(row[1]))
        while True:
            await cursor.execute(_INSERT + " on conflict (queue, key) where pending do nothing", first)
            if cursor.rowcount:
                return Receipt(p.envelope.id, "stored", int(first[0]))
            if pending := await self._pending(cursor, options, queue):
                return pending

    async def _pending(self, cursor: Cursor, options: Options, queue: Known) -> Receipt | None:
        await cursor.execute(PENDING, (queue.id, options.key))
        row = await cursor.fetchone()
        return None if row is None else pending_of(*row)

    async def _follow(self, cursor: Cursor, p: Publication, options: Options, message_id: str, queue: Known) -> None:
        """Return those that were merged the state and the keys of the message that they are now part of."""
        for merged in options.merged_ids:
            await self._remember(cursor, options, merged)
            if options.tracked and merged != message_id:
                await cursor.execute(
                    "insert into tracked (message_id, type, state, queue, at, into_id) values (%s, %s, 'ready', %s, now_seconds(), %s)"
                    " on conflict do nothing",
                    (merged, p.envelope.type, queue.queue.name, message_id),
                )

    async def _taken(self, cursor: Cursor, options: Options, fingerprints: dict[str, str | None]) -> str | None:
        """Return the message that has one of the keys already. Raises `KeyReused`."""
        if options.idempotency_key is not None:
            await cursor.execute(
                "select message_id, fingerprint from idempotency where name = %s and until > now_seconds()", (options.idempotency_key,)
            )
            row = await cursor.fetchone()
            first = fingerprints.setdefault(options.idempotency_key, options.fingerprint)
            if first != options.fingerprint or (row is not None and row[1] != (options.fingerprint or "")):
                raise KeyReused(
                    f'idempotency key "{options.idempotency_key}" came with another body before; use a new key for a new request'
                )
            if row is not None:
                return str(row[0])
        if options.unique is not None:
            await cursor.execute(
                "select message_id from unique_key where name = %s and (until is null or until > now_seconds())", (options.unique,)
            )
            row = await cursor.fetchone()
            if row is not None:
                return str(row[0])
        return None

    async def _remember(self, cursor: Cursor, options: Options, message_id: str) -> None:
        if options.idempotency_key is not None:
            values = (options.idempotency_key, message_id, options.fingerprint or "", IDEMPOTENCY_KEPT)
            await cursor.execute(_TAKE_IDEMPOTENCY, values)
            if not cursor.rowcount:
                raise Collision
        if options.unique is not None:
            await cursor.execute(_TAKE_UNIQUE, (options.unique, message_id, options.unique_for))
            if not cursor.rowcount:
                raise Collision


def _row(
    p: Publication, now: float, number: int, place: int, queue: Known | None, flags: int = 0, options: Options | None = None
) -> tuple[Any, ...]:  # fmt: skip
    key = options.key if options else None
    version = place if flags & MERGES else None
    way = (p.exchange, p.routing_key) if p.exchange else (None, None)
    state, due = (DELAYED, now + p.delay) if p.delay > 0 else (READY, None)
    identity = None if queue is None else queue.id
    return (place, number, identity, -p.priority, p.envelope.id, state, due, flags, key, version, state == READY, *way, encode(p.envelope))


def pending_of(message_id: str, version: int, envelope: bytes) -> Receipt:
    """Return the receipt that shows what is pending."""
    return Receipt(message_id, "pending", version, decode(envelope))


def _tickets(p: Publication, number: int, queues: Sequence[Known]) -> list[Ticket]:
    return tickets_of(number, p.exchange, p.routing_key, p.priority, p.envelope, [known.queue.name for known in queues])


def tickets_of(
    number: int, exchange: str, routing_key: str, priority: int, envelope: Envelope, queues: Sequence[str], sending: int = 0
) -> list[Ticket]:
    """Return the tickets of a publication's first way: through its exchange, and by the lanes of its queues where the exchange has none."""
    if not exchange:
        return [Ticket(number, "", name, priority, envelope, sending) for name in queues]
    lanes = [Ticket(number, "", name, priority, envelope, sending) for name in queues if priority]
    return [Ticket(number, exchange, routing_key, priority, envelope, sending, only_copies=bool(lanes)), *lanes]
