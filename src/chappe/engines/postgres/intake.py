"""The way in: publications are routed, and stored in one journey to the server where they ask for little."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, LiteralString

from chappe.engines.postgres.database import Cursor, Database
from chappe.engines.postgres.routes import Known, Routes
from chappe.engines.postgres.rows import encode
from chappe.engines.postgres.storing import Storing, pending_of, tally
from chappe.errors import Unroutable
from chappe.messages.envelope import Options, Publication, Receipt

_KNOWN: Final[LiteralString] = "with known as (select version = %(topology)s as ok from topology)"
# Of those who wait so many are named as there are messages, and one more: the others look a moment later, for these may be busy by then.
_TOLD: Final[LiteralString] = """
    told as (
        select pg_notify('chappe_ready', arrived.queue || ' ' || named.sessions)
        from (select queue, count(*) as many from stored group by queue) arrived, lateral (
            select string_agg(session::text, ' ') as sessions from (
                select session from waiter where waiter.queue = arrived.queue order by random() limit least(arrived.many + 1, 500)
            ) chosen
        ) named
        where named.sessions is not null
    ),
"""
_TOLD_OF_ONE: Final[LiteralString] = (
    _TOLD + "counted as (insert into tally (queue, published, exchange, passed) select queue, 1, %(exchange)s, %(passed)s from stored)"
)
_TOLD_OF_ALL: Final[LiteralString] = (
    _TOLD
    + """
    counted as (
        insert into tally (queue, exchange, published, passed) select t.*
        from known, unnest(%(tallied)s::integer[], %(through)b::text[], %(delivered)s::bigint[], %(passed)s::bigint[]) as t where ok
    )
"""
)
_PLAIN: Final[LiteralString] = (
    _KNOWN
    + """,
    stored as (
        insert into message (queue, rank, message_id, envelope)
        select queue, rank, id, envelope
        from known, unnest(%(queues)s::integer[], %(ranks)s::bigint[], %(ids)b::text[], %(envelopes)b::bytea[])
            as t (queue, rank, id, envelope)
        where ok returning queue
    ),
    """
    + _TOLD_OF_ALL
    + " select ok, (select count(*) from told) from known"
)
_ARCHIVED: Final[LiteralString] = (
    _KNOWN
    + """,
    sent as (
        select * from unnest(
            %(exchanges)b::text[], %(keys)b::text[], %(ids)b::text[], %(envelopes)b::bytea[], %(places)s::integer[], %(ranks)s::bigint[],
            %(queues)b::text[]
        ) as t (exchange, routing_key, id, envelope, place, rank, queues)
    ),
    stored as (
        insert into message (queue, rank, message_id, envelope)
        select queue, rank, id, envelope
        from known, sent, unnest(sent.queues::integer[]) as queue where ok returning queue
    ),
    head as (
        update archive_head set seq = seq + %(count)s from known where ok returning seq - %(count)s as before, now_seconds() as at
    ),
    archived as (insert into archive select before + place, at, exchange, routing_key, id, envelope from head, sent where place > 0),
    """
    + _TOLD_OF_ALL
    + " select ok, (select count(*) from told), (select tell_archived() from head) from known"
)
_ALLOT: Final = "select now_seconds(), array(select nextval('place') from generate_series(1, %s)), version from topology"
_ONE: Final[LiteralString] = (
    _KNOWN
    + """,
    stored as (
        insert into message (queue, rank, message_id, envelope)
        select %(queue)s, %(rank)s, %(id)s, %(envelope)s from known where ok returning queue
    ),
    """
    + _TOLD_OF_ONE
    + " select ok, (select count(*) from told) from known"
)
# One message that may be merged, alone in its call, is what is sent most often: two statements in one journey. The first chooses by what it
# sees whether the message is ready or behind, and the second corrects it by the line, which both then hold.
_FIRST: Final[LiteralString] = (
    _KNOWN
    + """,
    pending as (select message_id, version, envelope from message where queue = %(queue)s and key = %(key)s and pending),
    turn as (select nextval('place') as place from known where ok and not exists (select 1 from pending)),
    stored as (
        insert into message (place, queue, rank, state, message_id, flags, key, pending, version, envelope)
        select place, %(queue)s, %(rank)s,
            case when exists (select 1 from line where queue = %(queue)s and key = %(key)s) then 2 else 1 end,
            %(id)s, 32, %(key)s, true, place, %(envelope)s
        from turn on conflict (queue, key) where pending do nothing returning queue, place
    ),
    joined as (
        insert into line select %(queue)s, %(key)s, place from stored on conflict (queue, key) do update set head = line.head returning head
    ),
    """
    + _TOLD_OF_ONE
    + """
    select ok, pending.message_id, pending.version, pending.envelope, stored.place,
        (select count(*) from told) + (select count(*) from joined)
    from known left join pending on true left join stored on true
    """
)
_CORRECT: Final = """
    update message m set state = case when l.head = m.place then 1 else 2 end from line l
    where m.queue = %(queue)s and m.key = %(key)s and m.pending and m.message_id = %(id)s and l.queue = m.queue and l.key = m.key
        and m.state = case when l.head = m.place then 2 else 1 end
"""
_LOOK: Final = "select message_id, version, envelope from message where queue = %(queue)s and key = %(key)s and pending"
_CHANGE: Final = """
    update message set envelope = %(envelope)s, version = nextval('place')
    where queue = %(queue)s and key = %(key)s and pending and version = %(replaces)s returning message_id, version
"""
_ROUNDS: Final = 5


def plain(
    topology: int, publications: Sequence[Publication], envelopes: Sequence[bytes], taken: Sequence[list[Known]]
) -> tuple[LiteralString, dict[str, Any]]:
    """Return what stores plain messages if the topology is still this one: one of one queue by its values, several by columns."""
    if len(publications) == 1 == len(taken[0]):
        (p,), (envelope,), ((known,),) = publications, envelopes, taken
        return _ONE, {
            "topology": topology, "queue": known.id, "rank": -p.priority, "id": p.envelope.id, "envelope": envelope,
            "exchange": p.exchange, "passed": 1 if p.exchange else 0,
        }  # fmt: skip
    copies = [
        (known.id, -p.priority, p.envelope.id, envelope)
        for p, envelope, to in zip(publications, envelopes, taken, strict=True)
        for known in to
    ]
    queues, ranks, ids, contents = (list(column) for column in zip(*copies, strict=True))
    columns = {"topology": topology, "queues": queues, "ranks": ranks, "ids": ids, "envelopes": contents}
    return _PLAIN, columns | _tallied(publications, taken)


def _tallied(publications: Sequence[Publication], taken: Sequence[list[Known]]) -> dict[str, list[Any]]:
    return dict(zip(("tallied", "through", "delivered", "passed"), tally(zip(publications, taken, strict=True)), strict=True))


def _archiving(
    topology: int, publications: Sequence[Publication], envelopes: list[bytes], taken: Sequence[list[Known]], kept: list[bool]
) -> tuple[LiteralString, dict[str, Any]]:
    """Return what stores plain messages, and archives some of them, if the topology is still this one."""
    return _ARCHIVED, {
        "topology": topology, "count": sum(kept), "ranks": [-p.priority for p in publications], "envelopes": envelopes,
        "queues": [f"{{{','.join(str(known.id) for known in queues)}}}" for queues in taken],
        "places": [place if is_kept else 0 for place, is_kept in zip(itertools.accumulate(map(int, kept)), kept, strict=True)],
        "exchanges": [p.exchange for p in publications], "keys": [p.routing_key for p in publications],
        "ids": [p.envelope.id for p in publications], **_tallied(publications, taken),
    }  # fmt: skip


class MergeFirst(Exception):
    """Takes a transaction back in which something must be merged before; it never leaves this room."""

    def __init__(self, receipts: Iterable[Receipt]) -> None:
        self.receipts = list(receipts)


class Intake:
    """Stores publications, alone or inside the transactions of others."""

    def __init__(self, database: Database, routes: Routes) -> None:
        self._database = database
        self._routes = routes
        self._often_pending = True  # whether the last mask found another that it had to be merged with

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        """See `Broker.publish`."""
        if not publications:
            return []
        with self._database.one_deadline():
            stored = await self._publish_plain(publications) or await self._publish_mask(publications)
            return stored or await self._database.run(lambda cursor: self.store(cursor, publications))

    # --- in one journey

    async def _publish_plain(self, publications: Sequence[Publication]) -> list[Receipt] | None:
        """Store publications that ask for nothing in one journey, if they all are, and the topology is as it is known."""
        taken: list[list[Known]] = []
        for p in publications:
            known = self._routes.known_takers(p.exchange, p.routing_key, archives=True)
            if p.options is not None or p.delay > 0 or known is None or any(k.queue.fair for k in known):
                return None
            taken.append(known)
        envelopes, kept = [encode(p.envelope) for p in publications], [self._routes.archives(p.exchange) for p in publications]
        if any(kept):
            statement = _archiving(self._routes.version, publications, envelopes, taken, kept)
        elif any(taken):
            statement = plain(self._routes.version, publications, envelopes, taken)
        else:
            return None
        rows = await self._database.once(*statement)
        return [Receipt(p.envelope.id) for p in publications] if rows[0][0] else None

    async def _publish_mask(self, publications: Sequence[Publication]) -> list[Receipt] | None:
        """Store or merge one message that asks for nothing else than to be merged."""
        p = publications[0]
        options = p.options
        if len(publications) > 1 or options is None or not _merges_only(options) or p.delay > 0 or p.priority:
            return None
        known = self._routes.known_takers(p.exchange, p.routing_key)
        if known is None or len(known) != 1 or known[0].queue.fair:
            return None
        values = {
            "topology": self._routes.version, "queue": known[0].id, "key": options.key, "id": p.envelope.id, "rank": -p.priority,
            "envelope": encode(p.envelope), "replaces": options.replaces, "exchange": p.exchange, "passed": 1 if p.exchange else 0,
        }  # fmt: skip
        if options.replaces is not None:
            return await self._change(p, values)
        if self._often_pending and (rows := await self._database.once(_LOOK, values, repeatable=True)):
            return [pending_of(*rows[0])]
        self._often_pending = False
        for _ in range(_ROUNDS):
            # Said twice it finds itself: an answer that was lost costs nothing.
            (row, *_), _corrected = await self._database.together([(_FIRST, values), (_CORRECT, values)], repeatable=True)
            ok, pending_id, version, pending, place, _told = row
            if pending_id == p.envelope.id:
                return [Receipt(p.envelope.id, "stored", int(version))]
            if not ok:
                return None
            if place is not None:
                return [Receipt(p.envelope.id, "stored", int(place))]
            if pending_id is not None:
                self._often_pending = True
                return [pending_of(pending_id, version, pending)]
        return None

    async def _change(self, p: Publication, values: dict[str, Any]) -> list[Receipt]:
        if rows := await self._database.once(_CHANGE, values):
            return [Receipt(str(rows[0][0]), "merged", int(rows[0][1]))]
        rows = await self._database.once(_LOOK, values, repeatable=True)
        return [pending_of(*rows[0]) if rows else Receipt(p.envelope.id, "pending")]

    # --- in a transaction

    async def store_whole(self, cursor: Cursor, publications: Sequence[Publication]) -> None:
        """Store publications. Raises `MergeFirst`, which takes the transaction back, where some of them are *pending*."""
        receipts = await self.store(cursor, publications)
        if any(r.outcome == "pending" for r in receipts):
            mine = {r.id for r in receipts if r.outcome == "stored"}
            raise MergeFirst(
                Receipt(p.envelope.id, "pending") if r.outcome == "pending" and r.id in mine else r
                for p, r in zip(publications, receipts, strict=True)
            )

    async def store(self, cursor: Cursor, publications: Sequence[Publication]) -> list[Receipt]:
        """Store publications, all or none, but for those that are *duplicate* or *pending*."""
        if not publications:
            return []
        most = len(publications) * max(1, len(self._routes.queues))
        await cursor.execute(_ALLOT, (min(most, 4 * len(publications)),))
        now, places, version = (await cursor.fetchone()) or (0.0, [], 0)
        if version != self._routes.version:
            await self._routes.read(cursor, int(version))
        taken = [self._takers(p) for p in publications]
        needed = sum(len(queues) for queues in taken)
        if needed > len(places):
            await cursor.execute(_ALLOT, (needed,))
            places = ((await cursor.fetchone()) or (0.0, [], 0))[1]
        return await Storing(cursor, self._routes, publications, taken, float(now), [int(place) for place in places]).store()

    def _takers(self, p: Publication) -> list[Known]:
        queues = self._routes.takers(p.exchange, p.routing_key)
        lasting = [known for known in queues if known.is_lasting]
        if len(lasting) > 1 and p.options is not None and p.options.merges:
            names = ", ".join(known.queue.name for known in lasting)
            raise Unroutable(f'"{p.routing_key}" goes to several queues ({names}): a message that merges can wait in one only')
        return queues


def _merges_only(options: Options) -> bool:
    return options.merges and options.key is not None and not options.tracked and options.unique is None and options.idempotency_key is None
