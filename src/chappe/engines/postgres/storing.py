"""The storing of publications in one transaction, by so many statements whatever their number.

They are refused, merged, remembered by their keys and archived here; where they go is found out before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, LiteralString, NamedTuple

from chappe.bounds import IDEMPOTENCY_KEPT
from chappe.engines.contract.stray import wrapped
from chappe.engines.postgres import lines
from chappe.engines.postgres.archiving import ARCHIVE, TOLD, columns
from chappe.engines.postgres.database import Collision, Cursor
from chappe.engines.postgres.routes import Known, Routes
from chappe.engines.postgres.rows import BEHIND, DELAYED, MERGES, READY, TRACKED, UNIQUE, decode, encode
from chappe.errors import KeyReused
from chappe.messages.envelope import Options, Publication, Receipt

TELL: Final[LiteralString] = (
    "select pg_notify('chappe_ready', queue::text) from (select distinct queue from waiter where queue = any(%s)) w"
)
_COUNT_AND_TELL: Final[LiteralString] = (
    "with counted as (insert into tally (queue, exchange, published, passed)"
    " select * from unnest(%s::integer[], %s::text[], %s::bigint[], %s::bigint[])) " + TELL
)
_INSERT: Final = """
    insert into message (place, queue, rank, state, due, message_id, flags, key, pending, version, tenant, envelope)
    select * from unnest(
        %s::bigint[], %s::integer[], %s::bigint[], %s::smallint[], %s::float8[], %s::text[], %s::smallint[], %s::text[], %s::boolean[],
        %s::bigint[], %s::text[], %s::bytea[]
    ) on conflict (queue, key) where pending do nothing returning place
"""
_PENDING: Final[LiteralString] = """
    select queue, key, message_id, version, envelope from message
    where pending and (queue, key) in (select * from unnest(%s::integer[], %s::text[]))
"""
_MERGE: Final = """
    update message m set envelope = t.envelope, flags = m.flags | t.flags, version = nextval('place')
    from unnest(%s::integer[], %s::text[], %s::bigint[], %s::smallint[], %s::bytea[]) as t (queue, key, version, flags, envelope)
    where m.queue = t.queue and m.key = t.key and m.pending and m.version = t.version
    returning m.queue, m.key, m.message_id, m.version
"""
_TAKEN: Final = """
    select 'idempotency', name, message_id, fingerprint from idempotency where name = any(%s) and until > now_seconds()
    union all
    select 'unique', name, message_id, '' from unique_key where name = any(%s) and (until is null or until > now_seconds())
"""
_TAKE_IDEMPOTENCY: Final = """
    insert into idempotency select name, id, fingerprint, now_seconds() + %s
    from unnest(%s::text[], %s::text[], %s::text[]) as t (name, id, fingerprint) order by name
    on conflict (name) do update set message_id = excluded.message_id, fingerprint = excluded.fingerprint, until = excluded.until
    where idempotency.until <= now_seconds()
"""
_TAKE_UNIQUE: Final = """
    insert into unique_key select name, id, now_seconds() + lasts
    from unnest(%s::text[], %s::text[], %s::float8[]) as t (name, id, lasts) order by name
    on conflict (name) do update set message_id = excluded.message_id, until = excluded.until
    where unique_key.until <= now_seconds()
"""
_TRACK: Final = """
    insert into tracked (message_id, type, state, queue, at, into_id)
    select id, type, 'ready', queue, now_seconds(), into_id
    from unnest(%s::text[], %s::text[], %s::text[], %s::text[]) as t (id, type, queue, into_id) on conflict do nothing
"""
_ARCHIVE: Final[LiteralString] = "with known as (select true as ok)," + ARCHIVE + "select " + TOLD
ARCHIVED: Final = ""  # what those ask for, in place of a message, who wait for the archive
_ROUNDS: Final = 5


class _Copy(NamedTuple):
    """One message of one queue, as it is to be stored."""

    place: int
    queue: int
    rank: int
    state: int
    due: float | None
    message_id: str
    flags: int
    key: str | None
    pending: bool
    version: int | None
    tenant: str | None
    envelope: bytes


class Storing:
    """What is stored by one call."""

    def __init__(
        self,
        cursor: Cursor,
        routes: Routes,
        publications: Sequence[Publication],
        taken: Sequence[list[Known]],
        now: float,
        places: Sequence[int],
    ) -> None:
        self._cursor = cursor
        self._routes = routes
        self._all = publications
        self._taken = taken
        self._now = now
        self._places = iter(places)
        self._receipts: dict[int, Receipt] = {}
        self._remembered: list[tuple[Options, str]] = []

    async def store(self) -> list[Receipt]:
        await self._find_duplicates()
        await self._merge([n for n in range(len(self._all)) if n not in self._receipts and _merging(self._all[n])])
        await self._insert([n for n in range(len(self._all)) if n not in self._receipts])
        await self._remember()
        await self._track()
        await self._archive()
        counted = tally((p, self._taken[n]) for n, p in enumerate(self._all) if self._is(n, "stored"))
        if counted:
            await self._cursor.execute(_COUNT_AND_TELL, (*counted, counted[0]))
        return [self._receipts[n] for n in range(len(self._all))]

    def _is(self, n: int, outcome: str) -> bool:
        return self._receipts[n].outcome == outcome

    async def _find_duplicates(self) -> None:
        """Note those of which the message that has one of their keys is there already. Raises `KeyReused`."""
        wanted = [(n, p.options) for n, p in enumerate(self._all) if p.options is not None]
        idempotent = {o.idempotency_key for _, o in wanted if o.idempotency_key is not None}
        unique = {o.unique for _, o in wanted if o.unique is not None}
        if not idempotent and not unique:
            return
        await self._cursor.execute(_TAKEN, (list(idempotent), list(unique)))
        taken = {(kind, name): (message_id, mark) for kind, name, message_id, mark in await self._cursor.fetchall()}
        for n, options in wanted:
            mine, mark = self._all[n].envelope.id, options.fingerprint or ""
            first: str | None = None
            if options.idempotency_key is not None:
                known = taken.get(("idempotency", options.idempotency_key))
                if known is not None and known[1] != mark:
                    raise KeyReused(
                        f'idempotency key "{options.idempotency_key}" came with another body before; use a new key for a new request'
                    )
                first = None if known is None else known[0]
            if first is None and options.unique is not None and (known := taken.get(("unique", options.unique))) is not None:
                first = known[0]
            if first is not None:
                self._receipts[n] = Receipt(first, "duplicate")
                continue
            if options.idempotency_key is not None:
                taken["idempotency", options.idempotency_key] = (mine, mark)
            if options.unique is not None:
                taken["unique", options.unique] = (mine, "")

    async def _merge(self, numbers: Sequence[int]) -> None:
        """Put merged messages in the place of the pending ones."""
        asked: dict[tuple[int, str], int] = {}
        for n in numbers:
            options = self._all[n].options
            if options is not None and options.replaces is not None:
                if self._line(n) in asked:
                    self._receipts[n] = Receipt(self._all[n].envelope.id, "pending")
                else:
                    asked[self._line(n)] = n
        if not asked:
            return
        rows = [(*line, _options(self._all[n]).replaces, _flags(self._all[n]), encode(self._all[n].envelope)) for line, n in asked.items()]
        await self._cursor.execute(_MERGE, tuple(list(column) for column in zip(*rows, strict=True)))
        for queue, key, message_id, version in await self._cursor.fetchall():
            n = asked.pop((queue, key))
            self._receipts[n] = Receipt(str(message_id), "merged", int(version))
            options = _options(self._all[n])
            self._remembered += [(options, merged) for merged in options.merged_ids]
        await self._show_pending(asked)

    async def _show_pending(self, asked: dict[tuple[int, str], int]) -> None:
        """Answer what must be merged first."""
        if asked:
            found = await self._pending(asked)
            for line, n in asked.items():
                self._receipts[n] = found.get(line) or Receipt(self._all[n].envelope.id, "pending")

    async def _pending(self, asked: dict[tuple[int, str], int]) -> dict[tuple[int, str], Receipt]:
        await self._cursor.execute(_PENDING, ([queue for queue, _ in asked], [key for _, key in asked]))
        return {(int(row[0]), str(row[1])): pending_of(*row[2:]) for row in await self._cursor.fetchall()}

    def _line(self, n: int) -> tuple[int, str]:
        return next(known.id for known in self._taken[n] if known.is_lasting), str(_options(self._all[n]).key)

    async def _insert(self, numbers: Sequence[int]) -> None:
        """Store copies; of messages that merge only where nothing is pending."""
        copies: dict[int, tuple[int, _Copy]] = {}
        for n in numbers:
            for known in self._taken[n]:
                copy = self._copy(self._all[n], known, next(self._places))
                copies[copy.place] = (n, copy)
            self._receipts[n] = Receipt(self._all[n].envelope.id)
        merging = {n for n, copy in copies.values() if copy.pending}
        others = {place: (n, copy) for place, (n, copy) in copies.items() if n in merging and not copy.pending}
        left = {place: one for place, one in copies.items() if place not in others}
        for _ in range(_ROUNDS):
            if not left:
                break
            stored = await self._inserted([copy for _, copy in left.values()])
            for place in stored:
                n, copy = left[place]
                if copy.pending:
                    self._receipts[n] = Receipt(copy.message_id, "stored", place)
            conflicts = {(c.queue, str(c.key)): n for place, (n, c) in reversed(left.items()) if place not in stored}
            found = await self._pending(conflicts) if conflicts else {}
            again: dict[int, tuple[int, _Copy]] = {}
            for place, (n, copy) in left.items():
                if place not in stored:
                    if receipt := found.get((copy.queue, str(copy.key))):
                        self._receipts[n] = receipt
                    else:  # it has begun to run meanwhile
                        again[place] = (n, copy)
            left = again
        if left:
            raise Collision
        await self._inserted([copy for n, copy in others.values() if self._is(n, "stored")])
        await lines.join(
            self._cursor,
            [
                (c.queue, c.key, c.place, c.rank)
                for n, c in copies.values()
                if c.key is not None and c.state == BEHIND and self._is(n, "stored")
            ],
        )
        self._remembered += [(o, self._all[n].envelope.id) for n in numbers if (o := self._all[n].options) and self._is(n, "stored")]

    async def _inserted(self, copies: Sequence[_Copy]) -> set[int]:
        """Store copies, and return the places of those that were stored."""
        if not copies:
            return set()
        await self._cursor.execute(_INSERT, tuple(list(column) for column in zip(*copies, strict=True)))
        return {int(place) for (place,) in await self._cursor.fetchall()}

    def _copy(self, p: Publication, known: Known, place: int) -> _Copy:
        options, lasting = p.options, known.is_lasting
        key = options.key if options and not known.relays else None
        pending = lasting and options is not None and options.merges and key is not None
        state = DELAYED if p.delay > 0 else READY if key is None else BEHIND
        due = self._now + p.delay if p.delay > 0 else None
        flags = _flags(p) if lasting else 0
        version = place if pending else None
        envelope = encode(wrapped(p) if known.relays else p.envelope)
        tenant = ((options.tenant if options else None) or "") if known.queue.fair else None
        return _Copy(place, known.id, -p.priority, state, due, p.envelope.id, flags, key, pending, version, tenant, envelope)

    async def _remember(self) -> None:
        idempotent = {o.idempotency_key: (message_id, o.fingerprint or "") for o, message_id in self._remembered if o.idempotency_key}
        if idempotent:
            values = (list(idempotent), [i for i, _ in idempotent.values()], [f for _, f in idempotent.values()])
            await self._cursor.execute(_TAKE_IDEMPOTENCY, (IDEMPOTENCY_KEPT, *values))
            if self._cursor.rowcount < len(idempotent):
                raise Collision
        unique = {o.unique: (message_id, o.unique_for) for o, message_id in self._remembered if o.unique}
        if unique:
            values = (list(unique), [i for i, _ in unique.values()], [lasts for _, lasts in unique.values()])
            await self._cursor.execute(_TAKE_UNIQUE, values)
            if self._cursor.rowcount < len(unique):
                raise Collision

    async def _track(self) -> None:
        """Have the state of messages be asked for, and of those that were merged that of the message which they are now part of."""
        rows: list[tuple[str, str, str, str | None]] = []
        for n, p in enumerate(self._all):
            if p.options is None or not p.options.tracked:
                continue
            queue = next((known.queue.name for known in self._taken[n] if known.is_lasting), "")
            if self._is(n, "stored"):
                rows.append((p.envelope.id, p.envelope.type, queue, None))
            elif self._is(n, "merged"):
                into = self._receipts[n].id
                rows += [(merged, p.envelope.type, queue, into) for merged in p.options.merged_ids if merged != into]
        if rows:
            await self._cursor.execute(_TRACK, tuple(list(column) for column in zip(*rows, strict=True)))

    async def _archive(self) -> None:
        if self._routes.relay is not None:
            return  # the broker beside this one archives
        exchanges = self._routes.exchanges
        kept = [p for n, p in enumerate(self._all) if p.exchange and exchanges[p.exchange].archive and self._is(n, "stored")]
        if kept:
            values = columns([p.exchange for p in kept], [encode(p.envelope) for p in kept])
            await self._cursor.execute(_ARCHIVE, values | {"keys": [p.routing_key for p in kept]})


def tally(stored: Iterable[tuple[Publication, Sequence[Known]]]) -> list[list[Any]]:
    """Return what to count of messages that were stored: columns of queues, exchanges, what was delivered, and what was published."""
    counts: dict[tuple[int, str], list[int]] = {}
    for p, queues in stored:
        passed = 1 if p.exchange else 0
        for known in queues:
            count = counts.setdefault((known.id, p.exchange), [0, 0])
            count[0] += 1
            count[1] += passed
            passed = 0
        if passed:
            counts.setdefault((0, p.exchange), [0, 0])[1] += passed
    return [list(column) for column in zip(*((*key, *count) for key, count in counts.items()), strict=True)]


def _options(p: Publication) -> Options:
    return p.options or Options()


def _merging(p: Publication) -> bool:
    return p.options is not None and p.options.merges and p.options.key is not None


def _flags(p: Publication) -> int:
    options = _options(p)
    return (TRACKED if options.tracked else 0) | (UNIQUE if options.unique else 0) | (MERGES if _merging(p) else 0)


def pending_of(message_id: str, version: int, envelope: bytes) -> Receipt:
    """Return the receipt that shows what is pending."""
    return Receipt(message_id, "pending", version, decode(envelope))
