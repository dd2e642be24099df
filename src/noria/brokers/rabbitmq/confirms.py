"""What was published and is not yet confirmed, matched with what RabbitMQ says of it: acks, nacks and returned messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from noria.errors import BrokerError, Unconfirmed, Unroutable


class Properties(Protocol):
    """What is sent beside a body: pika's properties, or those that are written already."""

    message_id: Any

    def encode(self) -> list[bytes]:
        """Give the pieces that go over the wire."""
        ...


class _Publication(NamedTuple):
    """What is needed to recognise a message that comes back, and until when its publisher waits."""

    future: asyncio.Future[None]
    exchange: str
    routing_key: str
    body: bytes
    properties: Properties
    expires: float


class Confirms:
    """The publications of one channel in confirm mode, numbered as RabbitMQ numbers them."""

    def __init__(self, deadline: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._open: dict[int, _Publication] = {}
        self._next = 1
        self._lowest = 1  # no publication below it is open
        self._returned = 0  # the latest that came back
        self._expired = 0  # all up to it were failed, as far as they were open
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, exchange: str, routing_key: str, body: bytes, properties: Properties) -> asyncio.Future[None]:
        """Give the future of what was published last."""
        future: asyncio.Future[None] = self._loop.create_future()
        expires = self._loop.time() + self._deadline
        self._open[self._next] = _Publication(future, exchange, routing_key, body, properties, expires)
        self._next += 1
        if self._timer is None:
            self._timer = self._loop.call_at(expires, self._expire)
        return future

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
        publication = self._open.pop(tag, None)
        if publication is None or publication.future.done():
            return
        if stored:
            publication.future.set_result(None)
        else:
            # RabbitMQ says so of a queue that is full, and of one whose leader was lost with the message or without.
            why = "its queue is full, or has no leader now, and the message may be stored or not"
            publication.future.set_exception(Unconfirmed(f"the broker refused the message for {_where(publication)}: {why}"))

    def give_back(self, text: str, exchange: str, routing_key: str, body: bytes, properties: Properties) -> bool:
        """Fail the publication that came back, and tell whether it was found.

        RabbitMQ returns in the order of publishing, and each message before it confirms it. So it is the first open one, after
        the last that came back, that says the same; two that say the same in everything may be taken for each other.
        """
        near: int | None = None
        said = b"".join(properties.encode())
        for tag in range(max(self._returned + 1, self._lowest), self._next):
            sent = self._open.get(tag)
            if (
                sent is None
                or sent.routing_key != routing_key
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
        found = self._open[near]
        if not found.future.done():
            found.future.set_exception(Unroutable(f"no queue takes a message for {_where(found)}: {text}"))
        return True

    def _expire(self) -> None:
        """Fail what waits too long. It stays open: its confirmation can still come, and keeps the order."""
        now = self._loop.time()
        self._timer = None
        for tag in range(max(self._expired + 1, self._lowest), self._next):
            publication = self._open.get(tag)
            if publication is None or publication.future.done():
                continue
            if publication.expires > now:
                self._timer = self._loop.call_at(publication.expires, self._expire)
                return
            self._expired = tag
            why = f"the broker did not confirm the message for {_where(publication)} within {self._deadline:g} s"
            publication.future.set_exception(Unconfirmed(f"{why}; it may be stored or not"))

    def fail(self, error_of: Callable[[str], BrokerError]) -> None:
        """Fail all that are open with the error for their exchange; nothing more is heard of them."""
        if self._timer is not None:
            self._timer.cancel()
        for publication in self._open.values():
            if not publication.future.done():
                publication.future.set_exception(error_of(publication.exchange))
                publication.future.exception()  # who gave up waiting has no use for it
        self._open.clear()
        self._lowest = self._next


def _where(publication: _Publication) -> str:
    return f'exchange "{publication.exchange}", routing key "{publication.routing_key}"'
