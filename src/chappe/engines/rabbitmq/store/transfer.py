"""What `chappe move` asks of this store: all that is known of copies, the removal of delayed ones, and dead letters of elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from chappe.engines.contract.letters import Exported
from chappe.engines.rabbitmq.store.contents import FORGET
from chappe.engines.rabbitmq.store.database import Cursor, Database
from chappe.engines.rabbitmq.store.envelopes import decode, decode_history, encode
from chappe.engines.rabbitmq.store.intake import DELAYED, HIGH, LOW, MERGES, RUNNING, TRACKED
from chappe.engines.rabbitmq.store.presence import Presence
from chappe.engines.rabbitmq.store.routes import Routes

_UNIQUE: Final[LiteralString] = (
    " left join lateral (select name, until - now_seconds() as lasts from unique_key u"
    " where m.flags & 2 > 0 and u.message_id = m.message_id limit 1) u on true"
)
_COPIES: Final[LiteralString] = (
    "select m.place, m.envelope, m.attempt, m.rank, m.due - now_seconds(), m.key, m.flags, u.name, u.lasts from message m" + _UNIQUE
)
_LATER: Final[LiteralString] = (
    _COPIES + " where m.queue = %s and m.state = %s and m.due > now_seconds() + %s and m.exchange is null and not m.pending"
    " and not exists (select 1 from held h where h.queue = m.queue and h.key = m.key and h.number = m.number)"
    " order by m.due, m.place limit %s"
)
_MINE: Final[LiteralString] = _COPIES + " where m.queue = %s and m.state = %s and m.session = %s limit %s"
_DEAD: Final[LiteralString] = (
    "select m.number, m.envelope, m.attempts, m.rank, null, m.key, m.flags, null, null, m.reason, m.error, m.died_at, m.history"
    " from dead m where m.queue = %s and m.number > %s order by m.number limit %s"
)
_WITHDRAW: Final[LiteralString] = (
    """
    with gone as (
        delete from message m where queue = %(queue)s and state = 0 and not pending and place = any(%(places)s)
        and not exists (select 1 from held h where h.queue = m.queue and h.key = m.key and h.number = m.number)
        returning place, message_id, number, key, flags
    ),
    """
    + FORGET
    + " select place, (select count(*) from told) from gone"
)
_BURY: Final = """
    insert into dead (queue, rank, message_id, attempts, flags, key, reason, error, died_at, history, envelope)
    select %s, %s, %s, %s, 0, %s, %s, %s, %s, %s, %s
    where not exists (select 1 from dead where queue = %s and message_id = %s and died_at = %s)
"""


class Transfer:
    """The carrying of copies and dead letters, for one session."""

    def __init__(self, database: Database, routes: Routes, presence: Presence) -> None:
        self._database = database
        self._routes = routes
        self._presence = presence

    async def export_messages(self, queue: str, state: str, after: int, later: float, limit: int) -> list[Exported]:
        session = await self._presence.number()

        async def work(cursor: Cursor) -> list[Exported]:
            await self._routes.refresh(cursor)
            identity = self._routes.queue(queue).id
            if state == "delayed":
                await cursor.execute(_LATER, (identity, DELAYED, later, limit))
            elif state == "dead":
                await cursor.execute(_DEAD, (identity, after, limit))
            else:
                await cursor.execute(_MINE, (identity, RUNNING, session, limit))
            return [_shown(row) for row in await cursor.fetchall()]

        return await self._database.run(work, writes=False)

    async def delete_delayed(self, queue: str, places: Sequence[int]) -> list[int]:
        async def work(cursor: Cursor) -> list[int]:
            await self._routes.refresh(cursor)
            await cursor.execute(
                _WITHDRAW, {"queue": self._routes.queue(queue).id, "places": list(places), "why": "moved to another engine"}
            )
            return [int(row[0]) for row in await cursor.fetchall()]

        return await self._database.run(work)

    async def import_letters(self, queue: str, letters: Sequence[Exported]) -> int:
        async def work(cursor: Cursor) -> int:
            await self._routes.refresh(cursor)
            known, count = self._routes.queue(queue), 0
            identity = known.id
            lanes = known.lanes
            for one in letters:
                lanes |= HIGH if one.priority > 0 else LOW if one.priority < 0 else 0
            if lanes != known.lanes:  # they go there when they are retried
                await cursor.execute("update queue set lanes = lanes | %s where id = %s", (lanes, identity))
                await self._routes.changed(cursor)
            for one in letters:
                assert one.letter is not None, "what is buried is dead"
                reason, error, died_at, history = one.letter
                same = (identity, one.envelope.id, died_at)
                await cursor.execute(
                    _BURY,
                    (identity, -one.priority, one.envelope.id, one.attempt, one.key, reason, error, died_at, encode(history),
                     encode(one.envelope), *same),
                )  # fmt: skip
                count += cursor.rowcount
            return count

        return await self._database.run(work)


def _shown(row: tuple[Any, ...]) -> Exported:
    place, envelope, attempt, rank, delay, key, flags, unique, lasts, *letter = row
    told = (*letter[:3], decode_history(letter[3])) if letter else None
    left = None if delay is None else max(0.0, float(delay))
    return Exported(
        place, decode(envelope), attempt, -rank, left, key, bool(flags & MERGES), unique, lasts, bool(flags & TRACKED), told
    )  # fmt: skip
