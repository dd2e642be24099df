"""One message that may be merged, alone in its call: what is sent most often here costs one statement instead of a transaction of eight."""

from __future__ import annotations

from typing import Final, LiteralString

from chappe.engines.rabbitmq.outbox import Ticket
from chappe.engines.rabbitmq.store.database import Database
from chappe.engines.rabbitmq.store.envelopes import encode
from chappe.engines.rabbitmq.store.intake import DELAYED, MERGES, PENDING, READY, pending_of, tickets_of
from chappe.engines.rabbitmq.store.routes import Known, Routes
from chappe.errors import ChappeError
from chappe.messages.envelope import Options, Publication, Receipt

Stored = tuple[list[Receipt], list[Ticket]]

_KNOWN: Final[LiteralString] = "with known as (select version, version = %(topology)s as is_known from topology)"
_FIRST: Final[LiteralString] = (
    _KNOWN
    + """,
    pending as (select message_id, version, envelope from message where queue = %(queue)s and key = %(key)s and pending),
    turn as (
        select nextval('place') as place, nextval('publication') as number from known where is_known and not exists (select 1 from pending)
    ),
    fresh as (
        insert into message (
            place, number, queue, rank, message_id, state, due, flags, key, version, ticketed, sent, exchange, routing_key, envelope
        )
        select place, number, %(queue)s, %(rank)s, %(id)s, %(state)s, now_seconds() + %(delay)s::double precision, %(flags)s, %(key)s,
            place, %(ticketed)s, false, %(exchange)s, %(routing_key)s, %(envelope)s
        from turn on conflict (queue, key) where pending do nothing returning place, number
    )
    select is_known, pending.message_id, pending.version, pending.envelope, fresh.place, fresh.number
    from known left join pending on true left join fresh on true
    """
)
_CHANGE: Final[LiteralString] = (
    _KNOWN
    + """,
    changed as (
        update message set envelope = %(envelope)s, flags = flags | %(flags)s, version = nextval('place')
        where queue = %(queue)s and key = %(key)s and pending and version = %(replaces)s and (select is_known from known)
        returning message_id, version
    )
    select is_known, changed.message_id, changed.version from known left join changed on true
    """
)


class Lone:
    """Stores such a message, or gives nothing where it must take the long way: where the topology has changed meanwhile, among others."""

    def __init__(self, database: Database, routes: Routes) -> None:
        self._database = database
        self._routes = routes

    async def publish(self, p: Publication) -> Stored | None:
        """Put it into the queue, or say what is pending, or put it in the place of that."""
        options = p.options
        if options is None or not _is_plain(options):
            return None
        queue = self._queue(p)
        if queue is None:
            return None
        if options.replaces is not None:
            return await self._change(p, options, queue)
        return await self._first(p, options, queue)

    def _queue(self, p: Publication) -> Known | None:
        """Return the one queue that takes it, if it is known, and nothing must be opened for it."""
        try:
            taken = self._routes.takers(p.exchange, p.routing_key)
        except ChappeError:  # the long way asks anew, and says it
            return None
        return taken[0] if len(taken) == 1 and p.priority == 0 else None

    async def _first(self, p: Publication, options: Options, queue: Known) -> Stored | None:
        is_ready = p.delay <= 0
        values = {
            "topology": self._routes.version, "queue": queue.id, "key": options.key, "id": p.envelope.id, "rank": -p.priority,
            "state": READY if is_ready else DELAYED, "delay": None if is_ready else p.delay, "flags": MERGES, "ticketed": is_ready,
            "exchange": p.exchange or None, "routing_key": p.routing_key if p.exchange else None, "envelope": encode(p.envelope),
        }  # fmt: skip
        while True:
            # Said twice it finds itself: an answer that was lost costs nothing.
            row = await self._database.once(_FIRST, values, repeatable=True)
            if row is None:
                return None
            is_known, pending_id, pending_version, pending, place, number = row
            if pending_id == p.envelope.id:
                return [Receipt(p.envelope.id, "stored", int(pending_version))], []  # whoever looks for unsent tickets sends it
            if not is_known:
                return None
            if place is not None:
                tickets = tickets_of(number, p.exchange, p.routing_key, p.priority, p.envelope, [queue.queue.name]) if is_ready else []
                return [Receipt(p.envelope.id, "stored", int(place))], tickets
            if pending_id is not None:
                return [pending_of(pending_id, pending_version, pending)], []

    async def _change(self, p: Publication, options: Options, queue: Known) -> Stored | None:
        values = {
            "topology": self._routes.version, "queue": queue.id, "key": options.key, "replaces": options.replaces, "flags": MERGES,
            "envelope": encode(p.envelope),
        }  # fmt: skip
        row = await self._database.once(_CHANGE, values, repeatable=False)
        if row is None or not row[0]:
            return None
        _, message_id, version = row
        if message_id is not None:
            return [Receipt(str(message_id), "merged", int(version))], []
        row = await self._database.once(PENDING, (queue.id, options.key), repeatable=True)
        return [Receipt(p.envelope.id, "pending") if row is None else pending_of(*row)], []


def _is_plain(options: Options) -> bool:
    """Tell whether nothing else is asked for but to be merged."""
    return options.merges and options.key is not None and not options.tracked and options.unique is None and options.idempotency_key is None
