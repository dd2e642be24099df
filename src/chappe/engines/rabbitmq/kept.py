"""What is kept beside RabbitMQ because it has no notion of it, as the broker of this room sees it.

A message is in RabbitMQ or there, never in both. Plain messages are RabbitMQ's; what has a key, a delay, a priority, a result or a large
body is kept, and so is from then on what is retried, or what a worker died with.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from chappe.engines.contract.broker import Broker, Consumer, Delivery, Depth, Refusal, Settlement
from chappe.engines.contract.stray import MARK, STRAYS, Stray
from chappe.messages.envelope import Publication
from chappe.messages.topology import Queue, Topology

_LARGEST: Final = 8 * 1024 * 1024  # bytes of a body: RabbitMQ 4 refuses 16 MiB, and consumers lose their connections over 100
_number = itertools.count(int.from_bytes(os.urandom(3), "big"))


def tag_of(queue: str, message_id: str) -> int:
    """Return a tag for a message of RabbitMQ; its upper part is the mark by which it is known when it comes again."""
    mark = zlib.crc32(message_id.encode(), zlib.crc32(queue.encode()))
    return STRAYS | mark << MARK | next(_number) & ((1 << MARK) - 1)


def is_stray(tag: int) -> bool:
    """Tell whether a tag is of a message of RabbitMQ."""
    return tag >= STRAYS


def is_kept(publication: Publication) -> bool:
    """Tell whether a publication is kept beside RabbitMQ."""
    if publication.options is not None or publication.delay > 0 or publication.priority != 0:
        return True
    return len(publication.envelope.body) > _LARGEST and not publication.exchange


class KeptConsumer(Consumer, Protocol):
    """A receiver of what is kept, which takes over what is more than plain now."""

    elsewhere: Callable[[], int]
    on_ready: Callable[[], None]

    @property
    def is_alone(self) -> bool:
        """Whether nothing else may be out: what this consumer holds, or is about to take, runs alone."""
        ...

    async def attend(self) -> None:
        """Have `on_ready` called when there is something in one of the queues."""
        ...

    async def paused(self) -> set[str]:
        """Return those of its queues of which nothing is to be lent."""
        ...

    async def claim(self, room: int, most: int = ...) -> list[Delivery]:
        """Return what is ready now, up to a number of deliveries; none whose rank is larger than `most`, which is minus a priority."""
        ...

    async def blamed(self, strays: Sequence[Stray]) -> set[int]:
        """Return the tags of those with which workers died, as soon as all that have died are told of."""
        ...

    async def adopt(self, strays: Sequence[Stray]) -> None:
        """Take over what workers died with: it waits until it runs alone, or is a dead letter."""
        ...

    async def settle_strays(self, settlements: Sequence[Settlement], strays: Sequence[Stray]) -> list[Refusal]:
        """End deliveries of RabbitMQ, by their tags: what is not refused is kept, or done."""
        ...


class Presence(Protocol):
    """Who this session is, what others see of it, and who else holds messages of RabbitMQ's."""

    info: dict[str, Any]
    on_said: Callable[[str], None]

    async def say(self, what: str, session: int | None = None) -> None:
        """Have `on_said` of all sessions be called, or that of one."""
        ...

    async def number(self) -> int:
        """Return the number of this session."""
        ...

    async def show_consuming(self) -> None:
        """Have others find this session among `consumers`."""
        ...

    async def consumers(self) -> list[int]:
        """Return the sessions that live and hold messages of RabbitMQ's."""
        ...


class Kept(Broker, Protocol):
    """The broker of what is kept."""

    @property
    def presence(self) -> Presence: ...

    async def declare_new(self, topology: Topology) -> bool:
        """Make them exist, and tell whether anything was new."""
        ...

    async def takers(self, exchange: str, routing_key: str, *, fresh: bool = False) -> list[str]:
        """Return the queues that take this routing key, or raise `Unroutable`; `fresh` looks at what others declared meanwhile."""
        ...

    def consume(
        self, queues: Sequence[str], *, prefetch: int, temporary: Sequence[Queue] = ()
    ) -> AbstractAsyncContextManager[KeptConsumer]: ...

    async def depth(self, queue: str) -> Depth:
        """Count the messages of a queue. Raises `NotFound`."""
        ...

    async def queues(self) -> Sequence[str]:
        """Return the queues that were declared."""
        ...
