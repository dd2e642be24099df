"""How copies are read for a change, and whose turn it is among those of a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

from chappe.engines.rabbitmq.store.database import Cursor

COPY: Final[LiteralString] = "place, number, state, key, ticket, attempt, flags, version, note, session, message_id, rank, loan, envelope"


class Row(NamedTuple):
    """A copy as it is stored."""

    place: int
    number: int
    state: int
    key: str | None
    ticket: str | None
    attempt: int
    flags: int
    version: int | None
    note: str | None
    session: int | None
    message_id: str
    rank: int
    loan: int
    envelope: bytes


async def rows_of(cursor: Cursor, queue: int, numbers: Sequence[int]) -> dict[int, Row]:
    """Return copies by their numbers, and have nobody else change them until this transaction ends."""
    await cursor.execute(
        "select " + COPY + " from message where queue = %s and number = any(%s) order by place for update", (queue, list(numbers))
    )
    return {row[1]: Row(*row) for row in await cursor.fetchall()}


async def lock_keys(cursor: Cursor, queue: int, numbers: Sequence[int]) -> None:
    """Have nobody else change whose turn it is among the keys of these copies until this transaction ends."""
    await cursor.execute(
        "select distinct key from message where queue = %s and number = any(%s) and key is not null", (queue, list(numbers))
    )
    await _lock(cursor, queue, [str(row[0]) for row in await cursor.fetchall()])


async def lock_keys_at(cursor: Cursor, queue: int, places: Sequence[int]) -> None:
    """Do the same for the copies at these places."""
    await cursor.execute("select distinct key from message where place = any(%s) and key is not null", (list(places),))
    await _lock(cursor, queue, [str(row[0]) for row in await cursor.fetchall()])


async def _lock(cursor: Cursor, queue: int, keys: Sequence[str]) -> None:
    for key in sorted(keys):
        await cursor.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (queue, key))
