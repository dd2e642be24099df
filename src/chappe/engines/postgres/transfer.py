"""What `chappe move` asks: all that is known of messages, the removal of delayed ones, and dead letters of elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, LiteralString

from chappe.engines.contract.letters import Exported
from chappe.engines.postgres.contents import FORGET
from chappe.engines.postgres.database import Database
from chappe.engines.postgres.presence import Presence
from chappe.engines.postgres.routes import Routes
from chappe.engines.postgres.rows import MERGES, TRACKED, decode, encode

_UNIQUE: Final[LiteralString] = (
    " left join lateral (select name, until - now_seconds() as lasts from unique_key u"
    " where m.flags & 2 > 0 and u.message_id = m.message_id limit 1) u on true"
)
_LATER: Final[LiteralString] = (
    "select m.place, m.envelope, m.attempt, m.rank, case when m.budget is null then m.due - now_seconds() else 0 end, m.key, m.flags,"
    " u.name, u.lasts from message m" + _UNIQUE + " where m.queue = %s and m.state = 0 and m.due > now_seconds() + %s and not m.pending"
    " and not exists (select 1 from line l where l.queue = m.queue and l.key = m.key and l.head = m.place)"
    " order by m.due, m.place limit %s"
)
_MINE: Final[LiteralString] = (
    "select m.place, m.envelope, m.attempt, m.rank, null, m.key, m.flags, u.name, u.lasts from running m"
    + _UNIQUE
    + " where m.queue = %s and m.session = %s limit %s"
)
_DEAD: Final = """
    select number, envelope, attempts, rank, null, key, flags, null, null, reason, error, died_at, history
    from dead where queue = %s and number > %s order by number limit %s
"""
_DELETE: Final[LiteralString] = (
    """
    with ended as (
        delete from message m where queue = %(queue)s and state = 0 and not pending and place = any(%(places)s)
        and not exists (select 1 from line l where l.queue = m.queue and l.key = m.key and l.head = m.place)
        returning place, queue, message_id, key, flags
    ),
    """
    + FORGET
    + " select place, (select count(*) from heard) from ended"
)
_BURY: Final = """
    insert into dead (queue, rank, message_id, attempts, flags, key, reason, error, died_at, history, envelope)
    select %(queue)s, rank, id, attempts, 0, key, reason, error, died_at, history::jsonb, envelope
    from unnest(
        %(ranks)s::bigint[], %(ids)s::text[], %(attempts)s::integer[], %(keys)s::text[], %(reasons)s::text[], %(errors)s::text[],
        %(times)s::float8[], %(histories)s::text[], %(envelopes)s::bytea[]
    ) as t (rank, id, attempts, key, reason, error, died_at, history, envelope)
    where not exists (select 1 from dead d where d.queue = %(queue)s and d.message_id = t.id and d.died_at = t.died_at) returning number
"""


class Transfer:
    """The store's side of carrying messages and dead letters, for one session."""

    _database: Database
    _routes: Routes
    _presence: Presence

    async def export_messages(self, queue: str, state: str, *, after: int = 0, later: float = 0.0, limit: int = 100) -> list[Exported]:
        session = await self._presence.number() if state == "running" else 0
        number = await self._routes.known(self._database, queue)
        statement = _LATER if state == "delayed" else _DEAD if state == "dead" else _MINE
        behind = later if state == "delayed" else after if state == "dead" else session
        return [_shown(row) for row in await self._database.once(statement, (number, behind, limit), repeatable=True)]

    async def delete_delayed(self, queue: str, places: Sequence[int]) -> list[int]:
        number = await self._routes.known(self._database, queue)
        values = {"queue": number, "places": list(places), "why": "moved to another engine", "state": "dead"}
        return [int(row[0]) for row in await self._database.once(_DELETE, values)]

    async def import_letters(self, queue: str, letters: Sequence[Exported]) -> int:
        told = [(one, one.letter) for one in letters if one.letter is not None]
        values = {
            "queue": await self._routes.known(self._database, queue), "ranks": [-one.priority for one, _ in told],
            "ids": [one.envelope.id for one, _ in told], "attempts": [one.attempt for one, _ in told],
            "keys": [one.key for one, _ in told], "reasons": [letter[0] for _, letter in told],
            "errors": [letter[1] for _, letter in told], "times": [letter[2] for _, letter in told],
            "histories": [json.dumps(letter[3]) for _, letter in told], "envelopes": [encode(one.envelope) for one, _ in told],
        }  # fmt: skip
        return len(await self._database.once(_BURY, values))


def _shown(row: tuple[Any, ...]) -> Exported:
    place, envelope, attempt, rank, delay, key, flags, unique, lasts, *letter = row
    told = (*letter[:3], tuple(tuple(entry) for entry in letter[3])) if letter else None
    left = None if delay is None else max(0.0, float(delay))
    return Exported(
        place, decode(envelope), attempt, -rank, left, key, bool(flags & MERGES), unique, lasts, bool(flags & TRACKED), told
    )  # fmt: skip
