"""What was published and is not yet confirmed, matched with what RabbitMQ says of it: acks, nacks and returned messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from chappe.errors import BrokerError, Rejected, Unconfirmed, Unroutable


class Properties(Protocol):
    """What is sent beside a body: pika's properties, or those that are written already."""

    message_id: Any

    def encode(self) -> list[bytes]:
        """Return the pieces that go over the wire."""
        ...


class Outgoing(NamedTuple):
    """One message for RabbitMQ."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties


class Batch:
    """Messages that were published together, and what became of each: stored (`None`) or an error; `answered` ends with the last.

    What is not confirmed `within` so many seconds is failed.
    """

    def __init__(self, messages: Sequence[Outgoing], within: float) -> None:
        loop = asyncio.get_running_loop()
        self.messages = messages
        self.within = within
        self.expires = loop.time() + within
        self.answered: asyncio.Future[list[Exception | None]] = loop.create_future()
        self._outcomes: list[Exception | None] = [None] * len(messages)
        self._open = bytearray(b"\1") * len(messages)
        self._left = len(messages)

    def is_open(self, number: int) -> bool:
        """Tell whether nothing is known of a message yet, and somebody waits for it."""
        return bool(self._open[number]) and not self.answered.done()

    def tell(self, number: int, outcome: Exception | None) -> None:
        """Hear what became of a message; what is heard first holds."""
        if self._open[number]:
            self._open[number] = 0
            self._outcomes[number] = outcome
            self._left -= 1
            if not self._left and not self.answered.done():
                self.answered.set_result(self._outcomes)


class Confirms:
    """The publications of one channel in confirm mode, numbered as RabbitMQ numbers them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, tuple[Batch, int]] = {}
        self._next = 1
        self._lowest = 1  # no publication below it is open
        self._returned = 0  # the latest that came back
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, batch: Batch, number: int) -> None:
        """Hear that this one of a batch was published last."""
        self._open[self._next] = batch, number
        self._next += 1
        self._expire_at(batch.expires)

    def settle(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """End one publication, or all up to it."""
        if multiple:
            first = self._lowest
            self._lowest = tag + 1
            for one in range(first, tag + 1):
                self._end(one, stored=stored)
        else:
            self._end(tag, stored=stored)
            while self._lowest < self._next and self._lowest not in self._open:
                self._lowest += 1

    def _end(self, tag: int, *, stored: bool) -> None:
        found = self._open.pop(tag, None)
        if found is None:
            return
        batch, number = found
        if stored:
            batch.tell(number, None)
        else:
            # RabbitMQ says so of a queue that is full, and of one whose leader was lost with the message or without.
            why = "its queue is full, or has no leader now, and the message may be stored or not"
            batch.tell(number, Unconfirmed(f"the broker refused the message for {_where(batch.messages[number])}: {why}"))

    def give_back(self, text: str, exchange: str, routing_key: str, body: bytes, properties: Properties) -> bool:
        """Fail the publication that came back, and tell whether it was found.

        RabbitMQ returns in the order of publishing, and each message before it confirms it. So it is the first open one, after
        the last that came back, that says the same; two that say the same in everything may be taken for each other.
        """
        near: int | None = None
        said = b"".join(properties.encode())
        for tag in range(max(self._returned + 1, self._lowest), self._next):
            found = self._open.get(tag)
            if found is None:
                continue
            sent = found[0].messages[found[1]]
            if (
                sent.routing_key != routing_key
                or sent.exchange != exchange
                or sent.properties.message_id != properties.message_id
                or sent.body != body
            ):
                continue
            if b"".join(sent.properties.encode()) == said:
                near = tag
                break
            near = near or tag  # RabbitMQ can be told to add headers of its own
        if near is None:
            return False
        self._returned = near
        batch, number = self._open[near]
        batch.tell(number, Unroutable(f"no queue takes a message for {_where(batch.messages[number])}: {text}"))
        return True

    def _expire_at(self, when: float) -> None:
        """Look at what waits no later than at this time of the loop."""
        if self._timer is None or when < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        """Fail what waits too long. It stays open: its confirmation can still come, and keeps the order."""
        now = self._loop.time()
        self._timer = None
        for batch, number in self._open.values():
            if not batch.is_open(number):
                continue
            if batch.expires > now:
                self._expire_at(batch.expires)
                continue
            why = f"the broker did not confirm the message for {_where(batch.messages[number])} within {batch.within:.3g} s"
            batch.tell(number, Unconfirmed(f"{why}; it may be stored or not"))

    def fail(self, error_of: Callable[[str], BrokerError]) -> None:
        """Fail all that are open with the error for their exchange; nothing more is heard of them."""
        if self._timer is not None:
            self._timer.cancel()
        for batch, number in self._open.values():
            batch.tell(number, error_of(batch.messages[number].exchange))
        self._open.clear()
        self._lowest = self._next


def raise_if_refused(outcomes: Sequence[Exception | None]) -> None:
    """Raise what became of messages that were published together; see `Outlet.publish`."""
    errors = [outcome for outcome in outcomes if outcome is not None]
    if not errors:
        return
    for error in errors:
        if not isinstance(error, Rejected) or len(outcomes) == 1:
            raise error
    if len(errors) == len(outcomes):
        raise errors[0]
    raise Unconfirmed(f"{len(errors)} of {len(outcomes)} messages were refused ({errors[0]}), the others are stored")


def _where(message: Outgoing) -> str:
    return f'exchange "{message.exchange}", routing key "{message.routing_key}"'
