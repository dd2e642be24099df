"""What was published and is not yet confirmed, matched with what RabbitMQ says of it: acks, nacks and returned messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from chappe.errors import BrokerError, Rejected, Unconfirmed, Unroutable


class Outgoing(NamedTuple):
    """One message for RabbitMQ."""

    exchange: str
    routing_key: str
    body: bytes
    properties: bytes  # as they go over the wire


class Batch:
    """Messages that were published together, and what became of each: stored (`None`) or an error; `answered` ends with the last.

    What is not confirmed `within` so many seconds is failed.
    """

    def __init__(self, messages: Sequence[Outgoing], within: float) -> None:
        loop = asyncio.get_running_loop()
        self.messages = messages
        self.answered: asyncio.Future[list[Exception | None]] = loop.create_future()
        self._outcomes: list[Exception | None] = [None] * len(messages)
        self._open = bytearray(b"\1") * len(messages)
        self._left = len(messages)
        self._expiry = loop.call_later(within, self._expire, within)

    def tell(self, number: int, outcome: Exception | None) -> None:
        """Hear what became of a message; what is heard first holds."""
        if self._open[number]:
            self._open[number] = 0
            self._outcomes[number] = outcome
            self._left -= 1
            if not self._left:
                self._expiry.cancel()
                if not self.answered.done():
                    self.answered.set_result(self._outcomes)

    def _expire(self, within: float) -> None:
        """Fail what waits too long; its confirmation can still come, and keeps the order."""
        for number, message in enumerate(self.messages):
            if self._open[number]:
                why = f"the broker did not confirm the message for {_where(message)} within {within:.3g} s"
                self.tell(number, Unconfirmed(f"{why}; it may be stored or not"))


class Confirms:
    """The publications of one channel in confirm mode, numbered as RabbitMQ numbers them."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Batch, int]] = {}
        self._next = 1
        self._lowest = 1  # no publication below it is open
        self._returned = 0  # the latest that came back

    def __len__(self) -> int:
        return len(self._open)

    def add(self, batch: Batch, number: int) -> None:
        """Hear that this one of a batch was published last."""
        self._open[self._next] = batch, number
        self._next += 1

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

    def give_back(self, text: str, exchange: str, routing_key: str, body: bytes, properties: bytes) -> bool:
        """Fail the publication that came back, and tell whether it was found.

        RabbitMQ returns in the order of publishing, and each message before it confirms it. So it is the first open one, after
        the last that came back, that says the same; two that say the same in everything may be taken for each other.
        """
        near: int | None = None
        for tag in range(max(self._returned + 1, self._lowest), self._next):
            if (found := self._open.get(tag)) is None:
                continue
            sent = found[0].messages[found[1]]
            if sent == (exchange, routing_key, body, properties):
                near = tag
                break
            if near is None and sent[:3] == (exchange, routing_key, body):
                near = tag  # RabbitMQ can be told to add headers of its own
        if near is None:
            return False
        self._returned = near
        batch, number = self._open[near]
        batch.tell(number, Unroutable(f"no queue takes a message for {_where(batch.messages[number])}: {text}"))
        return True

    def fail(self, error_of: Callable[[str], BrokerError]) -> None:
        """Fail all that are open with the error for their exchange; nothing more is heard of them."""
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
