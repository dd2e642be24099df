"""Messages of the broker beside this one that this database takes over: each once, whatever is said again after a lost answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

from chappe.engines.postgres.database import Cursor
from chappe.engines.postgres.envelopes import encode
from chappe.messages.envelope import Envelope

_ALLOT: Final = "select array(select nextval('place') from generate_series(1, %s))"
_ADOPT: Final[LiteralString] = """
    with given as (
        select * from unnest(%(tags)s::bigint[], %(places)s::bigint[], %(queues)s::integer[], %(ids)s::text[], %(envelopes)s::bytea[])
            as t (tag, place, queue, message_id, envelope)
    ),
    fresh as (insert into adoption select tag, place, now_seconds() from given on conflict do nothing returning tag, place),
    lent as (
        insert into running (place, queue, rank, message_id, attempt, deaths, flags, session, envelope)
        select g.place, g.queue, 0, g.message_id, 0, 0, 0, %(session)s, g.envelope from given g join fresh using (tag)
    )
    select tag, place, true from fresh union all select tag, place, false from adoption where tag = any(%(tags)s)
"""


class Stray(NamedTuple):
    """A message of the broker beside this one, as it was lent there under a tag; without a queue it never comes here itself."""

    tag: int
    queue: str | None
    envelope: Envelope


class Adopted(NamedTuple):
    """What has become of a stray: its place here, and whether it came just now."""

    place: int
    is_new: bool


async def adopt(cursor: Cursor, session: int, strays: Sequence[Stray], queues: Mapping[str, int]) -> dict[int, Adopted]:
    """Lend strays to a session, as if it had claimed them here, and return their places by their tags; `queues` has numbers by names."""
    await cursor.execute(_ALLOT, (len(strays),))
    row = await cursor.fetchone()
    assert row is not None
    await cursor.execute(
        _ADOPT,
        {
            "tags": [stray.tag for stray in strays], "places": row[0], "queues": [queues[stray.queue or ""] for stray in strays],
            "ids": [stray.envelope.id.replace("\x00", "\N{REPLACEMENT CHARACTER}") for stray in strays],
            "envelopes": [encode(stray.envelope) for stray in strays], "session": session,
        },
    )  # fmt: skip
    return {int(tag): Adopted(int(place), bool(is_new)) for tag, place, is_new in await cursor.fetchall()}
