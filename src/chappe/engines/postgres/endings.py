"""How what was lent ends: done, waiting again, or dead; so many statements for a batch, whatever its size."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, LiteralString

from msgspec.structs import replace

from chappe.engines.contract.broker import Ack, Dead, Refusal, Retry, Settlement
from chappe.engines.contract.stray import Stray
from chappe.engines.postgres import budgets, lines
from chappe.engines.postgres.adopting import adopt
from chappe.engines.postgres.claims import Held, held_of_stray
from chappe.engines.postgres.database import Cursor, Database
from chappe.engines.postgres.intake import Intake, MergeFirst
from chappe.engines.postgres.rows import HISTORY, MERGES, RETURNED, SUSPECT, TRACKED, UNIQUE
from chappe.engines.postgres.storing import TELL
from chappe.engines.postgres.tenants import DONE_CHARGED, charge, seconds_of
from chappe.errors import BrokerUnavailable, Rejected, Unconfirmed
from chappe.failures import why_dead

_End = Callable[[Cursor, Sequence[Settlement]], Awaitable[list[Refusal]]]

_THEN_AT_ONCE: Final = 500  # publications that leave in one transaction: it must end within the deadline
_DONE: Final[LiteralString] = """
    with ended as (delete from running where place = any(%s) and session = %s returning place, queue),
    counted as (insert into tally (queue, done) select queue, count(*) from ended group by queue)
    select place from ended
"""
# What was remembered of messages that have `ended` goes, and who asked for it hears what they ended with, which `asked` says.
TIDY: Final[LiteralString] = """
    forgotten as (
        delete from failure f using ended e where e.flags & 4 > 0 and f.queue = e.queue and f.message_id = e.message_id
    ),
    unique_again as (
        delete from unique_key u using ended e where e.flags & 2 > 0 and u.message_id = e.message_id and u.until is null
    ),
    told as (
        update tracked t set state = %(state)s, result = a.result, error = a.error, at = now_seconds()
        from ended e join asked a using (place) where e.flags & 1 > 0 and t.message_id = e.message_id returning t.message_id
    ),
    told_too as (
        update tracked t set state = %(state)s, result = a.result, error = a.error, at = now_seconds()
        from ended e join asked a using (place) where e.flags & 1 > 0 and t.into_id = e.message_id returning t.message_id
    ),
    heard as (
        select pg_notify('chappe_ended', message_id) from asker
        where message_id in (select message_id from told union all select message_id from told_too)
    )
"""
_END: Final[LiteralString] = (
    """
    asked as (select * from unnest(%(places)s::bigint[], %(results)s::bytea[], %(errors)s::text[]) as t (place, result, error)),
    """
    + TIDY
    + """,
    counted as (
        insert into tally (queue, done, died)
        select queue, count(*) filter (where %(state)s = 'done'), count(*) filter (where %(state)s = 'dead') from ended group by queue
    )
    select place, (select count(*) from heard) from ended
"""
)
_ACK: Final[LiteralString] = (
    """
    with ended as (delete from running where place = any(%(places)s) and session = %(session)s returning place, queue, message_id, flags),
    """
    + _END
)
_UNMARK: Final[LiteralString] = "delete from mark where message_id = any(%s)"
_RETRY: Final[LiteralString] = """
    with asked as (
        select * from unnest(
            %(places)s::bigint[], %(afters)s::float8[], %(counted)s::boolean[], %(notes)s::text[], %(errors)s::text[],
            %(flags)s::smallint[], %(whole)s::boolean[], %(budgets)s::text[]
        ) as t (place, after, counted, note, error, flags, whole, budget)
    ),
    back as (
        delete from running r using asked a where r.place = a.place and r.session = %(session)s
        returning r.*, a.after, a.counted, a.note as new_note, a.error, a.flags as new_flags, a.whole, a.budget
    ),
    failed as (
        insert into failure select queue, message_id, now_seconds(), attempt + 1, error from back where error is not null
    ),
    tallied as (insert into tally (queue, retried) select queue, count(*) from back where counted group by queue)
    insert into message (
        place, queue, rank, state, due, message_id, attempt, deaths, flags, key, note, budget, tenant, envelope, pending, version
    )
    select place, queue, rank, case when budget is not null or after > 0 then 0 when new_flags & 16 > 0 then 3 else 1 end,
        case when budget is not null then 'infinity' when after > 0 then now_seconds() + after end, message_id,
        attempt + counted::integer, deaths, new_flags, key, new_note, budget, tenant, envelope,
        is_whole, case when is_whole then nextval('place') end
    from (
        select b.*, b.whole and not exists (select 1 from message m where m.queue = b.queue and m.key = b.key and m.pending) as is_whole
        from back b
    ) b returning place
"""
BURY: Final[LiteralString] = (
    """
    letters as (
        insert into dead (
            queue, rank, message_id, attempts, deaths, flags, key, unique_name, reason, error, died_at, history, tenant, envelope
        )
        select e.queue, e.rank, e.message_id, e.spent, e.deaths, e.flags & 3, e.key,
            (select name from unique_key u where e.flags & 2 > 0 and u.message_id = e.message_id and u.until is null limit 1),
            e.reason, e.error, now_seconds(),
            coalesce((
                select jsonb_agg(jsonb_build_array(f.at, f.attempt, f.error) order by f.at) from failure f
                where f.queue = e.queue and f.message_id = e.message_id
            ), '[]'), e.tenant, e.envelope
        from ended e where not exists (select 1 from queue q where q.id = e.queue and q.owner is not null)
    ),
    """
    + _END
)
_DEAD: Final[LiteralString] = (
    """
    with given as (select * from unnest(%(places)s::bigint[], %(reasons)s::text[], %(texts)s::text[]) as t (place, reason, error)),
    ended as (
        delete from running r using given g where r.place = g.place and r.session = %(session)s
        returning r.*, r.attempt + 1 as spent, g.reason, g.error
    ),
    """
    + BURY
)


class Endings:
    """The endings of what one session holds."""

    def __init__(self, database: Database, intake: Intake) -> None:
        self._database = database
        self._intake = intake

    async def settle_strays(
        self, session: int, settlements: Sequence[Settlement], strays: Mapping[int, Stray], known: Mapping[str, int]
    ) -> list[Refusal]:
        """End deliveries of the broker beside this one, by their tags there; `known` are the numbers of their queues."""
        refusals: list[Refusal] = []
        for batch in _batches(settlements):
            refusals += await self._settle(batch, lambda cursor, some: self._end_strays(cursor, session, some, strays, known))
        return refusals

    async def _end_strays(
        self, cursor: Cursor, session: int, settlements: Sequence[Settlement], strays: Mapping[int, Stray], known: Mapping[str, int]
    ) -> list[Refusal]:
        passing = [s for s in settlements if isinstance(s, Ack) and strays[s.delivery].queue is None]
        if passing:
            await self._store_then(cursor, passing)
            await cursor.execute(_UNMARK, ([strays[s.delivery].envelope.id for s in passing if s.marked],))
        lasting = [s for s in settlements if strays[s.delivery].queue is not None]
        places = await adopt(cursor, [strays[s.delivery] for s in lasting], known, session)
        new = {places[s.delivery]: s for s in lasting if s.delivery in places}
        named = {place: strays[s.delivery] for place, s in new.items()}
        held = {place: held_of_stray(one, known) for place, one in named.items()}
        refused = await self._end(cursor, session, [replace(s, delivery=place) for place, s in new.items()], held)
        return [replace(refusal, delivery=new[refusal.delivery].delivery) for refusal in refused]

    async def settle(self, session: int, settlements: Sequence[Settlement], held: Mapping[int, Held]) -> list[Refusal]:
        """End deliveries that are held as far as is known, and return those that were refused."""
        plain = [s.delivery for s in settlements if isinstance(s, Ack) and not s.then and not s.marked and _is_plain(held[s.delivery])]
        if len(plain) == len(settlements):
            if any(held[place].tenant is not None for place in plain):
                seconds = [seconds_of(s, held[s.delivery]) for s in settlements]
                rows = await self._database.once(DONE_CHARGED, (plain, seconds, session), repeatable=True)
            else:
                rows = await self._database.once(_DONE, (plain, session), repeatable=True)
            return [] if len(rows) == len(plain) else _stale(plain, {int(place) for (place,) in rows})
        refusals: list[Refusal] = []
        for batch in _batches(settlements):
            refusals += await self._settle(batch, lambda cursor, some: self._end(cursor, session, some, held))
        return refusals

    async def _settle(self, settlements: Sequence[Settlement], end: _End) -> list[Refusal]:
        count = sum(len(s.then) for s in settlements if isinstance(s, Ack))
        deadlines = 1 + count // _THEN_AT_ONCE  # more than one only for what cannot be cut
        try:
            return await self._database.run(lambda cursor: end(cursor, settlements), repeatable=True, deadlines=deadlines)
        except (BrokerUnavailable, Unconfirmed) as late:
            if count <= 1:
                raise
            await self._database.once("select 1", (), repeatable=True)  # raises where it is the server that does not answer
            if len(settlements) == 1:
                raise Rejected(f"{count} publications of one message cannot be stored together: {late}") from None
            half = len(settlements) // 2
            return [*await self._settle(settlements[:half], end), *await self._settle(settlements[half:], end)]
        except (MergeFirst, Rejected) as refused:
            if len(settlements) > 1:  # whose it is shows when each is tried by itself
                with_more = [s for s in settlements if isinstance(s, Ack) and s.then]
                without = [s for s in settlements if not (isinstance(s, Ack) and s.then)]
                refusals = await self._settle(without, end) if without else []
                for settlement in with_more:
                    refusals += await self._settle([settlement], end)
                return refusals
            (settlement,) = settlements
            if isinstance(refused, MergeFirst):
                return [Refusal(settlement.delivery, "pending", "merge with the pending message first", tuple(refused.receipts))]
            if isinstance(settlement, Ack) and settlement.then:
                return [Refusal(settlement.delivery, "unroutable", str(refused))]
            raise

    async def _end(self, cursor: Cursor, session: int, settlements: Sequence[Settlement], held: Mapping[int, Held]) -> list[Refusal]:
        acks = [s for s in settlements if isinstance(s, Ack)]
        retries = [s for s in settlements if isinstance(s, Retry)]
        dead = [s for s in settlements if isinstance(s, Dead)]
        ended = await self._ack(cursor, session, acks, held) if acks else set[int]()
        if retries:
            ended |= await self._retry(cursor, session, retries, held)
        if dead:
            ended |= await self._bury(cursor, session, dead)
        await self._store_then(cursor, [ack for ack in acks if ack.delivery in ended])
        await charge(cursor, [s for s in settlements if s.delivery in ended], held)
        woken = {held[r.delivery].queue for r in retries if r.after <= 0 and r.budget is None and r.delivery in ended}
        leaving = [(h.queue, h.key) for s in (*acks, *dead) if (h := held[s.delivery]).key is not None and s.delivery in ended]
        woken |= set(await lines.leave(cursor, [(queue, str(key)) for queue, key in leaving]))
        if woken:
            await cursor.execute(TELL, (sorted(woken),))
        return _stale([s.delivery for s in settlements], ended)

    async def _store_then(self, cursor: Cursor, acks: Sequence[Ack]) -> None:
        await self._intake.store_whole(cursor, [p for ack in acks for p in ack.then])

    async def _ack(self, cursor: Cursor, session: int, acks: Sequence[Ack], held: Mapping[int, Held]) -> set[int]:
        places = [ack.delivery for ack in acks]
        if all(_is_plain(held[place], keyed=True) for place in places):
            await cursor.execute(_DONE, (places, session))
        else:
            results, errors = [ack.result for ack in acks], [_text(ack.error) for ack in acks]
            await cursor.execute(
                _ACK, {"places": places, "session": session, "state": "done", "results": results, "errors": errors}
            )  # fmt: skip
        ended = {int(row[0]) for row in await cursor.fetchall()}
        if marked := [held[ack.delivery].message_id for ack in acks if ack.marked and ack.delivery in ended]:
            await cursor.execute(_UNMARK, (marked,))
        return ended

    async def _retry(self, cursor: Cursor, session: int, retries: Sequence[Retry], held: Mapping[int, Held]) -> set[int]:
        flags: list[int] = []
        whole: list[bool] = []  # nobody has begun it, so that others may be merged into it again
        for retry in retries:
            known = held[retry.delivery].flags
            at_once = retry.after <= 0 and retry.note is None
            untouched = not retry.counted and retry.error is None and (at_once or retry.budget is not None)
            flags.append(known if untouched else known & ~SUSPECT | RETURNED | (HISTORY if retry.error is not None else 0))
            whole.append(bool(untouched and known & MERGES and not known & RETURNED))
        await cursor.execute(
            _RETRY,
            {
                "places": [r.delivery for r in retries], "afters": [r.after for r in retries], "counted": [r.counted for r in retries],
                "notes": [_text(r.note) for r in retries], "errors": [_text(r.error) for r in retries], "flags": flags, "whole": whole,
                "budgets": [_text(r.budget) for r in retries], "session": session,
            },
        )  # fmt: skip
        ended = {int(place) for (place,) in await cursor.fetchall()}
        await budgets.wait(cursor, [(held[r.delivery].queue, r.budget) for r in retries if r.budget is not None and r.delivery in ended])
        return ended

    async def _bury(self, cursor: Cursor, session: int, dead: Sequence[Dead]) -> set[int]:
        places = [d.delivery for d in dead]
        await cursor.execute(
            _DEAD,
            {
                "places": places, "session": session, "state": "dead", "reasons": [_text(d.reason) for d in dead],
                "texts": [_text(d.error) for d in dead], "results": [None] * len(dead),
                "errors": [_text(why_dead(d.reason, d.error)) for d in dead],
            },
        )  # fmt: skip
        return {int(row[0]) for row in await cursor.fetchall()}


def _is_plain(held: Held, *, keyed: bool = False) -> bool:
    """Tell whether nothing else is to be tidied up when a message ends."""
    return not held.flags & (TRACKED | UNIQUE | HISTORY) and (keyed or held.key is None)


def _batches(settlements: Sequence[Settlement]) -> list[list[Settlement]]:
    """Cut settlements into what one transaction can hold."""
    batches: list[list[Settlement]] = [[]]
    size = 0
    for settlement in settlements:
        more = len(settlement.then) if isinstance(settlement, Ack) else 0
        if batches[-1] and size + more > _THEN_AT_ONCE:
            batches.append([])
            size = 0
        batches[-1].append(settlement)
        size += more
    return batches


def _stale(places: Sequence[int], ended: set[int]) -> list[Refusal]:
    text = "the delivery was lost to somebody else, or settled already"
    return [Refusal(place, "stale", text) for place in places if place not in ended]


def _text(text: str | None) -> str | None:
    """Return a text as PostgreSQL can store it: without the character that ends one in C."""
    return None if text is None else text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
