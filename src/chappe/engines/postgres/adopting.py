"""Messages of the broker beside this one that this database takes over: each once, whatever is said again after a lost answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

from chappe.engines.contract.stray import Stray
from chappe.engines.postgres.database import Cursor
from chappe.engines.postgres.rows import encode

_ADOPT: Final[LiteralString] = """
    with given as (
        select t.*, nextval('place') as place
        from unnest(%(tags)s::bigint[], %(queues)s::integer[], %(ids)s::text[], %(envelopes)s::bytea[])
            as t (tag, queue, message_id, envelope)
    ),
    fresh as (insert into adoption select tag, place, now_seconds() from given on conflict do nothing returning tag, place),
    stored as (
        insert into {} (place, queue, rank, message_id, flags, tenant, envelope, attempt, deaths{})
        select g.place, g.queue, 0, g.message_id, {}, case when (select fair from queue where id = g.queue) then '' end, g.envelope, 0, 0{}
        from given g join fresh using (tag)
    )
    select tag, place from fresh
"""
_LEND: Final[LiteralString] = _ADOPT.format("running", ", session", "0", ", %(session)s")
_QUEUE: Final[LiteralString] = _ADOPT.format("message", "", "8", "")


async def adopt(cursor: Cursor, strays: Sequence[Stray], queues: Mapping[str, int], session: int | None) -> dict[int, int]:
    """Lend strays to a session as if it had claimed them here, or have them wait as if they had been lent before; return places by tags."""
    values: dict[str, Any] = {
        "tags": [stray.tag for stray in strays], "queues": [queues[stray.queue or ""] for stray in strays],
        "ids": [stray.envelope.id.replace("\x00", "\N{REPLACEMENT CHARACTER}") for stray in strays],
        "envelopes": [encode(stray.envelope) for stray in strays], "session": session,
    }  # fmt: skip
    await cursor.execute(_QUEUE if session is None else _LEND, values)
    return {int(tag): int(place) for tag, place in await cursor.fetchall()}  # of those that are new
