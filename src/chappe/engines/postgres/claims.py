"""The lending of what is ready: one queue at a time, in the order of its index, from where the last claim began.

Dead rows at the head of the index stay for as long as somebody's transaction is open, and each claim that begins there walks over all of
them. So a claim begins at a *floor*: the place where the one before began. It is a hint of one consumer and never the truth, because rows
can appear below it (a transaction that commits late, a message that is given back): larger priorities are always looked for, a claim that
brings less than it may has the next one look from the start, and so does one every second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, LiteralString, NamedTuple

from chappe.engines.contract.broker import Delivery
from chappe.engines.contract.stray import Stray
from chappe.engines.postgres.database import Row
from chappe.engines.postgres.rows import RETURNED, decode

LOWEST: Final = -(2**63)
ALL: Final = 2**63 - 1  # the rank of the smallest priority
_LOOK_AGAIN: Final = 1.0  # seconds
_DEEP: Final = 1000  # messages claimed in a row, after which a floor is worth it
MOVE: Final[LiteralString] = """
    taken as (delete from message m using first where m.place = first.place returning m.*),
    lent as (
        insert into running (place, queue, rank, message_id, attempt, deaths, flags, key, note, session, tenant, envelope)
        select place, queue, rank, message_id, attempt, deaths, flags, key, note, %(session)s, tenant, envelope from taken
    )
    select place, rank, attempt, flags, key, note, message_id, envelope, tenant from taken order by rank, place
"""
CLAIM: Final[LiteralString] = (
    """
    with above as (
        select place from message where queue = %(queue)s and not (select paused from queue where id = %(queue)s)
            and state = 1 and rank < %(rank)s and rank <= %(most)s
        order by rank, place limit %(limit)s for update skip locked
    ),
    beyond as (
        select place from message where queue = %(queue)s and not (select paused from queue where id = %(queue)s)
            and state = 1 and (rank, place) > (%(rank)s, %(floor)s) and rank <= %(most)s
        order by rank, place limit greatest(0, %(limit)s - (select count(*) from above)) for update skip locked
    ),
    first as (select place from above union all select place from beyond),
    """
    + MOVE
)
CLAIM_ALONE: Final[LiteralString] = (
    """
    with first as (
        select place from message where queue = %(queue)s and not (select paused from queue where id = %(queue)s)
            and state = 3 order by rank, place limit 1 for update skip locked
    ),
    """
    + MOVE
)
PAUSED_OF: Final = "select name from queue where paused and name = any(%s)"
# Which of some queues have something, so that a claim of many queues asks only those.
READY_IN: Final[LiteralString] = """
    select id from unnest(%s::integer[]) as q (id) where not (select paused from queue where id = q.id)
        and exists (select 1 from message where queue = q.id and state = any(%s))
"""


class Held(NamedTuple):
    """What a consumer knows of a message that it was lent."""

    queue: int
    name: str
    attempt: int
    flags: int
    key: str | None
    message_id: str
    tenant: str | None = None
    lent_at: float = 0.0


class Floors:
    """Where the next claim of each queue begins."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._places: dict[int, tuple[int, int]] = {}
        self._looked: dict[int, float] = {}
        self._brought: dict[int, int] = {}

    def of(self, queue: int) -> tuple[int, int]:
        """Return the rank and the place beyond which to claim."""
        return self._places.get(queue, (LOWEST, 0))

    def claimed(self, queue: int, rows: list[Row], limit: int) -> None:
        """Hear what a claim brought."""
        now = self._now()
        if len(rows) < limit:
            self.forget(queue)
            return
        if now - self._looked.setdefault(queue, now) > _LOOK_AGAIN:
            self._looked[queue] = now
            self._places.pop(queue, None)  # for one claim: the queue is as deep as before
            return
        self._brought[queue] = self._brought.get(queue, 0) + len(rows)
        rank, place = int(rows[0][1]), int(rows[0][0])
        if self._brought[queue] > _DEEP and (rank, place) > self.of(queue):
            self._places[queue] = (rank, place - 1)

    def forget(self, queue: int) -> None:
        """Have the next claim begin at the start."""
        for known in (self._places, self._looked, self._brought):
            known.pop(queue, None)


def held_of(row: Row, queue: int, name: str) -> tuple[int, Held]:
    """Return the tag of a claimed row, and what is to be known of it."""
    place, _, attempt, flags, key, _, message_id, _, tenant = row
    return int(place), Held(queue, name, int(attempt), int(flags), key, message_id, tenant, time.monotonic())


def held_of_stray(stray: Stray, queues: Mapping[str, int]) -> Held:
    """Return what is to be known of a message that was adopted; `queues` has numbers by names."""
    name = stray.queue or ""
    return Held(queues[name], name, 0, RETURNED, None, stray.envelope.id)


def delivery_of(row: Row, name: str) -> Delivery:
    """Return the delivery of a claimed row."""
    place, _, attempt, _, _, note, _, envelope, _ = row
    return Delivery(int(place), name, int(attempt) + 1, decode(envelope), note)
