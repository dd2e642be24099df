"""What an engine shows of single messages while they wait, run or are dead, without lending them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from chappe.engines.contract.fleet import QueueStatus
from chappe.messages.envelope import Envelope

STATES: Final = ("running", "ready", "delayed", "dead")
MOST_AHEAD: Final = 10_000  # messages that are counted before another one


class MessageStatus(Struct, frozen=True, omit_defaults=True):
    """A message where it is; `place` says where among those of its queue and state.

    `attempt` is the one that comes or runs, or how many there were of a dead one, whose `number`, `reason` and `died_at` are set.
    `due` says when what is delayed is ready, and since when what was delayed is; of what waits for a `budget` it is when the next
    start may be, and `pace` the seconds from one start to the next. `tenant` is whose share of a fair queue it counts against.
    `held_by` is the message that has its `key`, `holder` the process that runs it, or, as far as is known, has not `begun` it yet, and
    `error` says how the last attempt failed.
    """

    queue: str
    state: str
    place: str
    envelope: Envelope
    attempt: int = 1
    priority: int = 0
    deaths: int = 0
    key: str | None = None
    held_by: str | None = None
    due: float | None = None
    tenant: str | None = None
    budget: str | None = None
    pace: float | None = None
    alone: bool = False
    holder: str | None = None
    begun: bool = True
    number: int | None = None
    reason: str | None = None
    error: str | None = None
    died_at: float | None = None


class Look(Struct, frozen=True, array_like=True):
    """Some of the messages of a queue and state; `cursor` goes on behind what was looked at, and is None at the end."""

    messages: list[MessageStatus]
    cursor: str | None = None


class Inspection(Protocol):
    """Single messages."""

    async def look(self, queue: str, state: str, *, containing: Sequence[bytes] = (), cursor: str = "", limit: int = 20) -> Look:
        """Show messages of a queue in one of `STATES`, those that are served first before the others.

        Only those are shown whose stored envelope has all of `containing` somewhere in it. A bounded part is looked at, so that there
        may be fewer than `limit` and still a cursor. Plain messages that wait in RabbitMQ are not shown. Raises `NotFound`.
        """
        ...

    async def find(self, message_id: str, *, queue: str | None = None) -> list[MessageStatus]:
        """Return a message in each queue where it is, or in `queue`; several subscribers may have one event."""
        ...

    async def ahead(self, queue: str, place: str) -> int:
        """Return how many messages, of its tenant if it has one, are served before a place that `look` told, up to `MOST_AHEAD`."""
        ...


async def pages(store: Inspection, queues: Iterable[QueueStatus], text: str) -> AsyncGenerator[list[MessageStatus]]:
    """Yield, page by page, the messages of queues whose stored envelope has a text somewhere in it; a page may be empty.

    It takes as long as looking through all that waits: about half a second for a million.
    """
    for queue in queues:
        for state in STATES:
            cursor: str | None = "" if getattr(queue, state) or queue.is_estimate else None
            while cursor is not None:
                page = await store.look(queue.name, state, containing=(text.encode(),), cursor=cursor, limit=100)
                yield page.messages
                cursor = page.cursor
