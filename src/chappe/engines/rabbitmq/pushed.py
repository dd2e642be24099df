"""What a consumer has of one AMQP queue: how much RabbitMQ may push, what came, and in which order it may be lent on."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from chappe.engines.contract.broker import Delivery
from chappe.engines.rabbitmq.channel import Channel
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

    @property
    def is_unsettled(self) -> bool:
        """Whether RabbitMQ has lent it, and heard nothing of it yet."""
        return self.source.unsettled.get(self.number) is self

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
    """One AMQP queue, lent over a channel of its own; `credit` is what its subscription may have out at once, `used` what of it is.

    What is `ready` is lent on in its order; what was lent before waits in `incoming`, and others behind it, until it is known whether a
    worker died with it.
    """

    queue: str
    name: str
    temporary: Queue | None = None  # what to make for it, on each connection anew
    made_on: object = None
    channel: Channel | None = None
    subscription: str | None = None
    generation: int = 0
    credit: int = 0
    used: int = 0
    unsettled: dict[int, Item] = field(default_factory=dict[int, Item])  # by RabbitMQ's number, in the order in which it came
    incoming: deque[Item] = field(default_factory=deque[Item])
    ready: deque[Item] = field(default_factory=deque[Item])
    admission: asyncio.Task[None] | None = None
    asking: asyncio.Task[None] | None = None  # while RabbitMQ is asked for it, which may take long
    absent_for: float = 0.0  # seconds between two looks: RabbitMQ does not have the queue, or has not found it again

    def is_short(self, need: int) -> bool:
        """Tell whether RabbitMQ would push too little for so many that are asked for."""
        free = self.credit - self.used + len(self.ready) + len(self.incoming)
        return self.subscription is None or free < (need if need <= _EXACT else need // 2)

    def begin(self, credit: int) -> int:
        """Prepare for a new subscription and return its number; what came by an earlier one does not count against it."""
        self.subscription, self.credit, self.used = None, credit, 0
        self.generation += 1
        return self.generation

    def acknowledge(self, done: Sequence[Item]) -> None:
        """Tell RabbitMQ what is done; as little as possible has to be said."""
        left = {item.number for item in done if self.unsettled.get(item.number) is item}
        upto = 0
        for number in list(itertools.takewhile(left.__contains__, self.unsettled)):
            self._settled(number)
            left.discard(number)
            upto = number
        if self.channel is None or not self.channel.is_open:
            return
        if upto:
            self.channel.ack(upto, multiple=True)
        for number in left:
            self._settled(number)
            self.channel.ack(number)

    def give_back(self, item: Item) -> None:
        """Have RabbitMQ lend a message again."""
        if self.unsettled.get(item.number) is item and self.channel is not None and self.channel.is_open:
            self._settled(item.number)
            self.channel.nack(item.number)

    def _settled(self, number: int) -> None:
        if self.unsettled.pop(number).generation == self.generation:
            self.used -= 1

    def forget(self) -> None:
        """Note that the channel is gone, and with it everything that was lent."""
        self.begin(0)
        self.channel = None
        self.unsettled.clear()
        self.incoming.clear()
        self.ready.clear()


def credit_for(need: int) -> int:
    """Return how much may be pushed for so many that are asked for: with many there is always something on its way."""
    return need if need <= _EXACT else need + need // 2
