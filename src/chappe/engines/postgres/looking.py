"""Shows single messages, a bounded part of them at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final, LiteralString, NamedTuple

from chappe.engines.contract.inspection import MOST_AHEAD, Look, MessageStatus
from chappe.engines.postgres.database import Cursor, Database
from chappe.engines.postgres.routes import Routes
from chappe.engines.postgres.rows import ALONE, SUSPECT, decode
from chappe.errors import NotFound

_LOOKED_AT: Final = 20_000  # rows of one answer
_ROOM: Final = 4 * 1024 * 1024  # bytes of envelopes in one answer, or one envelope
_CONTAINS: Final[LiteralString] = (
    "(select bool_and(position(needle in envelope) > 0) from unnest(%(containing)s::bytea[]) needle) is not false"
)
_ERROR: Final[LiteralString] = (
    "(select error from failure f where f.queue = m.queue and f.message_id = m.message_id order by at desc, f.attempt desc limit 1)"
)
_WAITING: Final[LiteralString] = (
    """m.place, m.rank, m.message_id, m.attempt, m.deaths, m.flags, m.key, m.tenant, m.state, m.due, m.budget, null, """
    + _ERROR
    + """,
    (select coalesce(r.message_id, o.message_id) from line l
        left join running r on r.place = l.head left join message o on o.place = l.head
        where l.queue = m.queue and l.key = m.key and l.head <> m.place),
    (select greatest(b.tat - b.pace * (b.burst - 1), b.closed) from budget b where b.name = m.budget),
    (select b.pace from budget b where b.name = m.budget),
    null, null, true, m.envelope"""
)
# A worker begins what it was lent in order: what has as many before it there as it has slots waits in it.
_BEGUN: Final[LiteralString] = """(select count(*) from running r where r.session = m.session and (r.rank, r.place) < (m.rank, m.place))
    < coalesce((
        select (convert_from(s.info, 'UTF8')::jsonb ->> 'concurrency')::bigint from session s where s.number = m.session
    ), 2147483647)"""
_RUNNING: Final[LiteralString] = (
    """m.place, m.rank, m.message_id, m.attempt, m.deaths, m.flags, m.key, m.tenant, null, null, null,
    (select name from session s where s.number = m.session), """
    + _ERROR
    + ", null, null, null, null, null, "
    + _BEGUN
    + ", m.envelope"
)
_DEAD: Final[LiteralString] = """m.number, m.rank, m.message_id, m.attempts, m.deaths, m.flags, m.key, m.tenant, null, null, null,
    null, m.error, null, null, null, m.reason, m.died_at, true, m.envelope"""


# Of what is looked at, that which fits is shown, and the last also where it does not: behind it another look goes on.
_LOOK: Final[LiteralString] = """
    with looked as (
        select m.*, {contains} as fits, row_number() over (order by {order}) as nth
        from {table} and m.queue = %(queue)s and ({order}) > ({after}) order by {order} limit %(looked)s
    )
    select json_build_array({order})::text, fits, nth = %(looked)s, {columns} from looked m
    where fits or nth = %(looked)s order by {order} limit %(limit)s
"""


class _Section(NamedTuple):
    """A part of a state that one index has in order: `begin` is before all of it."""

    look: LiteralString
    begin: tuple[str | int | float, ...]


def _section(columns: LiteralString, table: LiteralString, order: LiteralString, after: LiteralString, *begin: float | str) -> _Section:
    return _Section(_LOOK.format(columns=columns, table=table, order=order, after=after, contains=_CONTAINS), begin)


_BEFORE_ALL: Final = -(2**62)
_SECTIONS: Final[dict[str, tuple[_Section, ...]]] = {
    "ready": (
        _section(_WAITING, "message m where m.state = 3", "m.rank, m.place", "%(a)s::bigint, %(b)s::bigint", _BEFORE_ALL, 0),
        _section(_WAITING, "message m where m.state = 1", "m.rank, m.place", "%(a)s::bigint, %(b)s::bigint", _BEFORE_ALL, 0),
        _section(
            _WAITING, "message m where m.state = 2", "m.key, m.rank, m.place", "%(a)s::text, %(b)s::bigint, %(c)s::bigint",
            "", _BEFORE_ALL, 0,
        ),
    ),
    "delayed": (_section(_WAITING, "message m where m.state = 0", "m.due, m.place", "%(a)s::float8, %(b)s::bigint", -math.inf, 0),),
    "running": (_section(_RUNNING, "running m where true", "m.place", "%(a)s::bigint", 0),),
    "dead": (_section(_DEAD, "dead m where true", "m.number", "%(a)s::bigint", 0),),
}  # fmt: skip
# Wherever it is, as of one moment.
_FOUND: Final[LiteralString] = """
    select q.name, {state}, {columns} from {table} m join queue q on q.id = m.queue
    where m.message_id collate "C" = %(id)s and (%(queue)s::text is null or q.name = %(queue)s)
"""
_FIND: Final[LiteralString] = " union all ".join((
    _FOUND.format(state="'dead'", columns=_DEAD, table="dead"),
    _FOUND.format(state="case m.state when 0 then 'delayed' else 'ready' end", columns=_WAITING, table="message"),
    _FOUND.format(state="'running'", columns=_RUNNING, table="running"),
))  # fmt: skip
_AHEAD: Final = """
    select count(*) from (
        select 1 from message mine join message m on m.queue = mine.queue and (m.rank, m.place) < (mine.rank, mine.place)
            and (m.state = 1 and mine.state in (1, 2) and m.tenant is not distinct from mine.tenant
                or mine.budget is not null and m.budget = mine.budget)
        where mine.place = %s and mine.queue = %s limit %s
    ) found
"""


class Looking:
    """The store's side of looking at the messages of all queues."""

    _database: Database
    _routes: Routes

    async def look(self, queue: str, state: str, *, containing: Sequence[bytes] = (), cursor: str = "", limit: int = 20) -> Look:
        if state not in _SECTIONS:
            raise NotFound(f'no state is called "{state[:50]}"; it is running, ready, delayed or dead')
        sections = _SECTIONS[state]
        first, behind = _begun(cursor, sections)
        limit = max(1, min(limit, 1000))
        values: dict[str, Any] = {"containing": list(containing), "looked": _LOOKED_AT if containing else limit}

        async def work(execute: Cursor) -> Look:
            values["queue"] = (await self._routes.find(execute, queue)).id
            shown: list[MessageStatus] = []
            room = _ROOM
            for number, section in enumerate(sections[first:], first):
                order = behind if number == first else section.begin
                values.update(zip("abc", order, strict=False))
                await execute.execute(section.look, {**values, "limit": limit - len(shown)})
                rows = await execute.fetchall()
                for place, fits, _, *row in rows:
                    room -= len(row[-1]) if fits else 0
                    if shown and room < 0:
                        return Look(shown, json.dumps((number, *order)))
                    order = json.loads(place)
                    if fits:
                        shown.append(_shown(queue, state, row))
                if len(shown) >= limit or (rows and rows[-1][2]):
                    return Look(shown, json.dumps((number, *order)))
            return Look(shown)

        return await self._database.run(work, writes=False)

    async def find(self, message_id: str, *, queue: str | None = None) -> list[MessageStatus]:
        rows = await self._database.once(_FIND, {"id": message_id, "queue": queue}, repeatable=True)
        return [_shown(name, state, row) for name, state, *row in rows]

    async def ahead(self, queue: str, place: str) -> int:
        if not place.isdigit() or len(place) > 18:
            raise NotFound(f'"{place[:100]}" is no place of a message')
        number = await self._routes.known(self._database, queue)
        ((count,),) = await self._database.once(_AHEAD, (int(place), number, MOST_AHEAD), repeatable=True)
        return int(count)


def _begun(cursor: str, sections: Sequence[_Section]) -> tuple[int, tuple[Any, ...]]:
    """Return the section where a cursor goes on, and behind what. Raises `NotFound`."""
    if not cursor:
        return 0, sections[0].begin
    try:
        number, *order = json.loads(cursor)
        begin = sections[range(len(sections))[int(number)]].begin
        behind = tuple(type(kind)(one) for kind, one in zip(begin, order, strict=True))
        if any(isinstance(one, int) and abs(one) >= 2**63 for one in behind):
            raise ValueError(cursor)
    except (ValueError, TypeError, IndexError, OverflowError):
        raise NotFound(f'"{cursor[:100]}" is no cursor of a list of messages; begin without one') from None
    return int(number), behind


def _shown(queue: str, state: str, row: Sequence[Any]) -> MessageStatus:
    (
        place, rank, message_id, attempt, deaths, flags, key, tenant, section, due, budget, holder, error, held_by, opens, pace, reason,
        died_at, begun, envelope,
    ) = row  # fmt: skip
    del message_id
    is_dead = state == "dead"
    return MessageStatus(
        queue, state, str(place), decode(envelope), attempt if is_dead else attempt + 1, -rank, deaths, key, held_by,
        due=opens if budget is not None else due, tenant=tenant, budget=budget, pace=pace,
        alone=section == ALONE or bool(flags & SUSPECT), holder=holder, number=place if is_dead else None, reason=reason, error=error,
        died_at=died_at, begun=begun,
    )  # fmt: skip
