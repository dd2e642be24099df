"""What a consumer has of one AMQP queue: how much RabbitMQ may push, what came, and in which order it may be lent on."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from chappe.engines.contract.broker import Delivery
from chappe.messages.envelope import Envelope
from chappe.messages.topology import Queue

Said = tuple[str, str, str]  # exchange, routing key and id of a message
_EXACT = 32  # up to here RabbitMQ pushes just what was asked for, so that nothing waits here that others could do


@dataclass(slots=True, eq=False)
class Item:
    """A message that RabbitMQ pushed as its `number`; `tag` is ours, and `again` says that it was lent before.

    `said` has what was already published of what its settlement publishes.
    """

    number: int
    source: Source
    generation: int
    envelope: Envelope
    tag: int
    again: bool = False
    attempt: int = 1
    note: str | None = None
    is_cancelled: bool = False
    said: set[Said] | None = None  # few messages publish anything

    @property
    def queue(self) -> str | None:
        """The queue in which it is kept from now on, none for what came through a temporary one."""
        return self.source.queue if self.source.temporary is None else None

    def noted(self) -> set[Said]:
        """Return the note of what was published already, to be continued."""
        if self.said is None:
            self.said = set()
        return self.said

    def delivery(self) -> Delivery:
        """Return it as it is lent on."""
        return Delivery(self.tag, self.source.queue, self.attempt, self.envelope, self.note)


@dataclass(slots=True, eq=False)
class Source:
    """One AMQP queue; `credit` is what its present subscription may have out at once, `used` what of it is.

    What is `ready` is lent on in its order; what was lent before waits in `incoming`, and others behind it, until it is known whether a
    worker died with it.
    """

    queue: str
    name: str
    subscription: str | None = None
    generation: int = 0
    credit: int = 0
    used: int = 0
    incoming: deque[Item] = field(default_factory=deque[Item])
    ready: deque[Item] = field(default_factory=deque[Item])
    admission: asyncio.Task[None] | None = None
    is_mute: bool = False  # RabbitMQ answers, but not for this queue: it has no leader now
    absent_for: float = 0.0  # seconds between two looks: RabbitMQ does not have the queue, or has not found it again
    looked_at: float = 0.0
    temporary: Queue | None = None  # what to make for it, on each connection anew
    made_on: object = None
    is_bound: bool = False

    def is_away(self, now: float) -> bool:
        """Tell whether the queue is gone or mute, and not to be asked for yet."""
        return self.is_mute or (self.absent_for > 0 and now < self.looked_at + self.absent_for)

    def is_short(self, need: int) -> bool:
        """Tell whether RabbitMQ would push too little for so many that are asked for."""
        free = self.credit - self.used + len(self.ready) + len(self.incoming)
        return self.subscription is None or free < (need if need <= _EXACT else need // 2)

    def begin(self, credit: int) -> int:
        """Prepare for a new subscription and return its number; what came by an earlier one does not count against it."""
        self.subscription, self.credit, self.used = None, credit, 0
        self.generation += 1
        return self.generation

    def ended(self, item: Item) -> None:
        """Note that an item of this queue is not out any more."""
        if item.generation == self.generation:
            self.used -= 1

    def forget(self) -> None:
        """Note that the connection is gone, and with it everything that was lent."""
        self.begin(0)
        self.incoming.clear()
        self.ready.clear()


def credit_for(need: int) -> int:
    """Return how much may be pushed for so many that are asked for: with many there is always something on its way."""
    return need if need <= _EXACT else need + need // 2
