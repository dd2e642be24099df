"""What is stored by one journey to the server: plain messages, and one message that may be merged with what is pending."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Final, LiteralString, Protocol

from chappe.engines.postgres.archiving import ARCHIVE, TOLD, columns
from chappe.engines.postgres.database import Row, Values
from chappe.engines.postgres.routes import Known, Routes
from chappe.engines.postgres.rows import encode
from chappe.engines.postgres.storing import pending_of, tally
from chappe.messages.envelope import Publication, Receipt

# There is one row of it: where a plan is to be made for any values, PostgreSQL must know that.
_KNOWN: Final[LiteralString] = "with known as (select version = %(topology)s as ok from topology limit 1)"
# Those who wait, and so somebody is told at all, are looked for in the list of what is returned: where nobody waits that costs least.
_TELL_OF_ONE: Final[LiteralString] = """
    (
        select pg_notify('chappe_ready', %(queue)s || ' ' || string_agg(session::text, ' '))
        from (select session from waiter where queue = %(queue)s order by random() limit 2) chosen having count(*) > 0
    )
"""
_COUNT_ONE: Final[LiteralString] = (
    "insert into tally (queue, published, exchange, passed) select queue, 1, %(exchange)s, %(passed)s from stored"
)
# Of those who wait so many are named as there are messages, and one more: the others look a moment later, for these may be busy by then.
_TOLD_OF_ALL: Final[LiteralString] = """
    told as (
        select pg_notify('chappe_ready', arrived.queue || ' ' || named.sessions)
        from (select queue, count(*) as many from stored group by queue) arrived, lateral (
            select string_agg(session::text, ' ') as sessions from (
                select session from waiter where waiter.queue = arrived.queue order by random() limit least(arrived.many + 1, 500)
            ) chosen
        ) named
        where named.sessions is not null
    ),
    counted as (
        insert into tally (queue, exchange, published, passed) select t.*
        from known, unnest(%(tallied)s::integer[], %(through)b::text[], %(delivered)s::bigint[], %(passed)s::bigint[]) as t where ok
    )
"""
_STORED: Final[LiteralString] = """
    stored as (
        insert into message (queue, rank, message_id, envelope)
        select queue, rank, id, envelope
        from known, unnest(%(queues)s::integer[], %(ranks)s::bigint[], %(ids)b::text[], %(envelopes)b::bytea[])
            as t (queue, rank, id, envelope)
        where ok returning queue
    ),
    """
_AND_ARCHIVED: Final[LiteralString] = ARCHIVE + "," + _TOLD_OF_ALL + " select (select count(*) from told), " + TOLD + " from known where ok"
_PLAIN: Final[LiteralString] = _KNOWN + "," + _STORED + _TOLD_OF_ALL + " select (select count(*) from told) from known where ok"
# Where each goes to one queue, nothing is to be repeated for each.
_ARCHIVED: Final[LiteralString] = _KNOWN + "," + _STORED + _AND_ARCHIVED
_ARCHIVED_TO_MANY: Final[LiteralString] = (
    _KNOWN
    + """,
    sent as (
        select * from unnest(%(ids)b::text[], %(envelopes)b::bytea[], %(ranks)s::bigint[], %(queues)b::text[])
            as t (id, envelope, rank, queues)
    ),
    stored as (
        insert into message (queue, rank, message_id, envelope)
        select queue, rank, id, envelope
        from known, sent, unnest(sent.queues::integer[]) as queue where ok returning queue
    ),
    """
    + _AND_ARCHIVED
)
_ONE: Final[LiteralString] = (
    """
    with stored as (
        insert into message (queue, rank, message_id, envelope)
        select %(queue)s, %(rank)s, %(id)s, %(envelope)s from topology where version = %(topology)s returning queue
    )
    """
    + _COUNT_ONE
    + " returning "
    + _TELL_OF_ONE
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
    + "counted as ("
    + _COUNT_ONE
    + """)
    select ok, pending.message_id, pending.version, pending.envelope, stored.place, (select count(*) from joined),
        case when stored.place is not null then
    """
    + _TELL_OF_ONE
    + """
        end
    from known left join pending on true left join stored on true
    """
)
_CORRECT: Final = """
    update message m set state = case when l.head = m.place then 1 else 2 end from line l
    where m.queue = %(queue)s and m.key = %(key)s and m.pending and m.message_id = %(id)s and l.queue = m.queue and l.key = m.key
        and m.state = case when l.head = m.place then 2 else 1 end
"""
_LOOK: Final = "select message_id, version, envelope from message where queue = %(queue)s and key = %(key)s and pending"
# Who guessed wrong is told at once what is pending. What others change at this very moment is shown as it was before: with the version that
# was guessed.
_CHANGE: Final = """
    with changed as (
        update message set envelope = %(envelope)s, version = nextval('place')
        where queue = %(queue)s and key = %(key)s and pending and version = %(replaces)s returning message_id, version
    )
    select message_id, version, null from changed
    union all
    select message_id, version, envelope from message
    where queue = %(queue)s and key = %(key)s and pending and not exists (select 1 from changed)
"""
_ROUNDS: Final = 5


class Together(Protocol):
    """Executes statements in one transaction with one journey, and returns the rows of each; see `Database.together`."""

    def __call__(self, statements: Sequence[tuple[LiteralString, Values]], *, repeatable: bool) -> Awaitable[list[list[Row]]]:
        """Say them, again where nobody knows whether they were executed if they are `repeatable`."""
        ...


def takers_of(routes: Routes, publications: Sequence[Publication]) -> list[list[Known]] | None:
    """Return where each of these goes, if they are plain, that is known, and nothing else is to be done than to store and archive them."""
    if any(p.options is not None or p.delay > 0 for p in publications):
        return None
    places = [(p.exchange, p.routing_key) for p in publications]
    found: dict[tuple[str, str], list[Known]] = {}
    for place in set(places):
        known = routes.known_takers(*place, archives=True)
        if known is None or any(k.queue.fair for k in known):
            return None
        found[place] = known
    return [found[place] for place in places]


def plain(routes: Routes, publications: Sequence[Publication], taken: Sequence[list[Known]]) -> tuple[LiteralString, dict[str, Any]] | None:
    """Return what stores plain messages, and archives those that an exchange keeps, if the topology is still this one.

    None where there is nothing to store.
    """
    envelopes = [encode(p.envelope) for p in publications]
    exchanges = [p.exchange for p in publications]
    keeping = {exchange for exchange in set(exchanges) if routes.archives(exchange)}
    if keeping:
        keepers = [exchange if exchange in keeping else None for exchange in exchanges]
        return _archived(routes.version, publications, envelopes, taken, keepers)
    if not any(taken):
        return None
    if len(publications) == 1 == len(taken[0]):
        (p,), (envelope,), ((known,),) = publications, envelopes, taken
        return _ONE, {
            "topology": routes.version, "queue": known.id, "rank": -p.priority, "id": p.envelope.id, "envelope": envelope,
            "exchange": p.exchange, "passed": 1 if p.exchange else 0,
        }  # fmt: skip
    copies = [
        (known.id, -p.priority, p.envelope.id, envelope)
        for p, envelope, to in zip(publications, envelopes, taken, strict=True)
        for known in to
    ]
    queues, ranks, ids, contents = (list(column) for column in zip(*copies, strict=True))
    columns = {"topology": routes.version, "queues": queues, "ranks": ranks, "ids": ids, "envelopes": contents}
    return _PLAIN, columns | _tallied(publications, taken)


def _tallied(publications: Sequence[Publication], taken: Sequence[list[Known]]) -> dict[str, list[Any]]:
    return dict(zip(("tallied", "through", "delivered", "passed"), tally(zip(publications, taken, strict=True)), strict=True))


def _archived(
    topology: int, publications: Sequence[Publication], envelopes: list[bytes], taken: Sequence[list[Known]], keepers: Sequence[str | None]
) -> tuple[LiteralString, dict[str, Any]]:
    values = {
        "topology": topology, "ranks": [-p.priority for p in publications], "ids": [p.envelope.id for p in publications],
        "keys": [p.routing_key for p in publications],
        **columns(keepers, envelopes), **_tallied(publications, taken),
    }  # fmt: skip
    if all(len(queues) == 1 for queues in taken):
        return _ARCHIVED, values | {"queues": [known.id for (known,) in taken]}
    return _ARCHIVED_TO_MANY, values | {"queues": [f"{{{','.join(str(known.id) for known in queues)}}}" for queues in taken]}


class Masks:
    """Publishes one message that asks for nothing else than to be merged."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._often_pending = True  # whether the last mask found another that it had to be merged with

    def queue(self, p: Publication) -> Known | None:
        """Return where a mask goes, if that is known and nothing else is to be done."""
        known = self._routes.known_takers(p.exchange, p.routing_key)
        return None if known is None or len(known) != 1 or known[0].queue.fair else known[0]

    async def publish(self, publications: Sequence[Publication], together: Together) -> list[Receipt] | None:
        """Store or merge it, and return its receipt; none where the topology has changed, or it must go another way."""
        if not is_mask(publications):
            return None
        (p,) = publications
        known, options = self.queue(p), p.options
        if known is None or options is None:
            return None
        values = {
            "topology": self._routes.version, "queue": known.id, "key": options.key, "id": p.envelope.id, "rank": -p.priority,
            "envelope": encode(p.envelope), "replaces": options.replaces, "exchange": p.exchange, "passed": 1 if p.exchange else 0,
        }  # fmt: skip
        if options.replaces is not None:
            return [await _changed(p, values, together)]
        if self._often_pending:
            (found,) = await together([(_LOOK, values)], repeatable=True)
            if found:
                return [pending_of(*found[0])]
        self._often_pending = False
        for _ in range(_ROUNDS):
            # Said twice it finds itself: an answer that was lost costs nothing.
            (row, *_), _corrected = await together([(_FIRST, values), (_CORRECT, values)], repeatable=True)
            ok, pending_id, version, pending, place, *_ = row
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


async def _changed(p: Publication, values: dict[str, Any], together: Together) -> Receipt:
    """Replace what is pending if it is still of that version, and return what is pending if not."""
    (rows,) = await together([(_CHANGE, values)], repeatable=False)
    if rows and rows[0][1] == values["replaces"]:
        (rows,) = await together([(_LOOK, values)], repeatable=True)
    if not rows:
        return Receipt(p.envelope.id, "pending")
    message_id, version, envelope = rows[0]
    return Receipt(str(message_id), "merged", int(version)) if envelope is None else pending_of(message_id, version, envelope)


def is_mask(publications: Sequence[Publication]) -> bool:
    """Tell whether it is one message that asks for nothing else than to be merged."""
    (p, *others) = publications
    o = p.options
    if others or o is None or p.delay > 0 or p.priority:
        return False
    return o.merges and o.key is not None and not o.tracked and o.unique is None and o.idempotency_key is None
