"""What waits beside a broker that cannot keep it by itself, and the tickets by which it is lent in its turn.

A *copy* is a message of one queue that the store keeps. Its *ticket* waits for it in the broker: who receives the
ticket is lent the copy, if it may run now; else the ticket is thrown away, and another is sent when its time comes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from chappe.messages.envelope import Envelope, Publication, Receipt


class Ticket(Struct, frozen=True):
    """What is to be sent through the broker for copies of a publication.

    On the default exchange it goes to one queue, in the lane of its priority. On another it carries the whole
    envelope, so that queues of other programs get it too; `only_copies` then says that ours get tickets of their own.
    """

    number: int
    exchange: str
    routing_key: str
    priority: int
    envelope: Envelope
    sending: int = 0  # which of the ways of its copies this is: what is confirmed of one says nothing of the next
    only_copies: bool = False


class Presented(Struct, frozen=True):
    """A ticket that came to a consumer; its text is of this one sending."""

    number: int
    ticket: str


class Lent(Struct, frozen=True):
    """A copy that is this session's until it settles it or is lost; no two loans of a copy have the same number."""

    number: int
    ticket: str
    loan: int
    attempt: int
    note: str | None
    envelope: Envelope


class Ending(Struct, frozen=True):
    """How a delivery is to end in the store; a copy is named by its number, what waits in the broker by its envelope.

    Without a `queue` it is an *ack* of what came through one that the store does not know.

    `then` is published with it or not at all. `kept` says that the store knows something of an earlier attempt. `attempt` counts the
    deaths of workers too, which are remembered apart.
    """

    queue: str
    attempt: int
    envelope: Envelope
    copy: Lent | None = None
    kind: str = "ack"
    then: tuple[Publication, ...] = ()
    result: bytes | None = None
    marked: bool = False
    kept: bool = False
    deaths: int = 0
    after: float = 0.0
    counted: bool = True
    text: str | None = None
    note: str | None = None
    reason: str = ""


class Ended(Struct, frozen=True):
    """What became of an ending: done, or refused (*stale*, *unroutable*, *pending*)."""

    why: str = ""
    text: str = ""
    receipts: tuple[Receipt, ...] = ()
    back: bool = False  # the ticket, or the message itself, goes back to its place in the broker


class Counts(Struct, frozen=True):
    """What the store has of one queue."""

    ready: int
    running: int
    lost: int  # running at somebody who is gone: the broker has their tickets again
    delayed: int
    dead: int
    tickets: int


def mark_of(queue: str, message_id: str) -> int:
    """Return the mark by which a message is known in the tables of running slots: it is the upper part of its tag there."""
    return zlib.crc32(message_id.encode(), zlib.crc32(queue.encode()))


class Outbox(Protocol):
    """The store's side of a queue; see each sentence above."""

    async def publish(self, publications: Sequence[Publication]) -> tuple[list[Receipt], list[Ticket]]:
        """See `Broker.publish`; then send the tickets."""
        ...

    async def present(self, queue: str, sign: int, tickets: Sequence[Presented]) -> list[Lent | None]:
        """Return what each ticket lends, or nothing where it lends nothing now.

        Without a priority (`sign` 0) a ticket lends its own copy; of larger ones (1) and smaller ones (-1) it lends the first in order.
        """
        ...

    async def earlier(self, queue: str, message_ids: Sequence[str]) -> Mapping[str, tuple[int, str | None]]:
        """Return the attempts and the note of messages of the broker itself that came back; those without any are left out."""
        ...

    async def deaths(self, marks: Sequence[int]) -> Mapping[int, int]:
        """Tell how many workers died while they ran messages of these marks; those without any are left out."""
        ...

    async def settle(self, endings: Sequence[Ending]) -> tuple[list[Ended], list[Ticket]]:
        """End deliveries, each by itself; then send the tickets."""
        ...

    async def lose(self, held: Sequence[Lent]) -> None:
        """Hear that the broker took these tickets back, for somebody else."""
        ...
