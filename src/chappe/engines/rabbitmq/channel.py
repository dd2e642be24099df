"""One channel of a connection: what is asked and lent over it, in order, until it ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from uuid import uuid4

from pika.spec import Basic

from chappe.engines.rabbitmq.reading import Message
from chappe.errors import BrokerError, BrokerUnavailable

log = logging.getLogger("chappe.rabbitmq")


class _Link(Protocol):
    lends: dict[str, Callable[[Message], None]]

    def say(self, channel: int, method: Any) -> None: ...
    def bounded(self, what: str) -> AbstractAsyncContextManager[object]: ...


class Channel:
    """Messages that are lent and settled in order; RabbitMQ closes it with the first refusal, and has back what was lent over it."""

    def __init__(self, link: _Link, number: int, on_end: Callable[[], None]) -> None:
        self.number = number
        self._on_end = on_end
        self.waiting: deque[asyncio.Future[Any]] = deque()  # for answers, which come in the order of the questions
        self.is_open = True
        self._link = link
        self._cancelled: dict[str, Callable[[], None]] = {}  # by the tags of those that consume
        self.reason = ""

    async def consume(
        self,
        queue: str,
        on_message: Callable[[Message], None],
        *,
        prefetch: int,
        arguments: dict[str, Any] | None = None,
        on_cancelled: Callable[[], None],
    ) -> str:
        """Have messages lent to a callback, maybe before this returns, and return the consumer's tag; raises `NotFound`.

        `on_cancelled` is called when RabbitMQ ends the consumer, as when the queue is deleted; nothing is called when the channel ends.
        """
        tag = f"chappe-{uuid4().hex}"
        async with self._link.bounded(f'consume "{queue}"'):
            self.ask(Basic.Qos(prefetch_count=prefetch))  # of the consumer that is said next
            answer = self.ask(Basic.Consume(queue=queue, consumer_tag=tag, arguments=arguments))
            self._cancelled[tag] = on_cancelled
            self._link.lends[tag] = on_message
            try:
                await asyncio.shield(answer)
            except BaseException:
                self._link.lends.pop(tag, None)
                answer.add_done_callback(lambda _: self._give_up(tag))  # 3.10.8 breaks off when it is cancelled before the answer
                raise
        return tag

    async def cancel(self, tag: str) -> None:
        """End a consumer; messages that are on their way are still lent to it before this returns, and all can still be settled."""
        if self._cancelled.pop(tag, None) is not None:
            async with self._link.bounded(f'cancel the consumer "{tag}"'):
                await self.ask(Basic.Cancel(consumer_tag=tag))
            self._forget(tag)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Say that a message is done, or all up to it; a tag that is not out ends the channel."""
        self.say(Basic.Ack(tag, multiple))

    def nack(self, tag: int) -> None:
        """Return a message back; a tag that is not out ends the channel."""
        self.say(Basic.Nack(tag, requeue=True))

    async def sync(self) -> None:
        """Return when RabbitMQ's channel has processed all that was said here before: publications, acks and nacks."""
        async with self._link.bounded("sync"):  # of what is answered, nothing does less
            await self.ask(Basic.Qos(prefetch_count=1))

    # --- for the link

    def say(self, method: Any) -> None:
        """Send a method. Raises `BrokerUnavailable` when this has ended."""
        if not self.is_open:
            raise BrokerUnavailable(f"RabbitMQ closed the channel: {self.reason}")
        self._link.say(self.number, method)

    def ask(self, method: Any) -> asyncio.Future[Any]:
        """Send a method, now; the future has the one that RabbitMQ answers with."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.say(method)
        self.waiting.append(answer)
        return answer

    def answered(self, method: Any) -> None:
        """Hear the answer to the first question; who asked it may have given up."""
        if self.waiting and not (answer := self.waiting.popleft()).done():
            answer.set_result(method)

    def cancelled(self, tag: str) -> None:
        """Hear that RabbitMQ ended a consumer."""
        if (told := self._forget(tag)) is not None:
            try:
                told()
            except Exception:  # it is the caller's
                log.exception('nobody took that the consumer "%s" was cancelled', tag)

    def _give_up(self, tag: str) -> None:
        if self._forget(tag) is not None:
            self.ask(Basic.Cancel(consumer_tag=tag))

    def _forget(self, tag: str) -> Callable[[], None] | None:
        self._link.lends.pop(tag, None)
        return self._cancelled.pop(tag, None)

    def end(self, error: BrokerError) -> None:
        """Hear that it is no more, and fail what waits."""
        if not self.is_open:
            return
        self.is_open, self.reason = False, str(error)
        while self.waiting:
            if not (answer := self.waiting.popleft()).done():
                answer.set_exception(error)
                answer.exception()  # who gave up waiting has no use for it
        for tag in list(self._cancelled):
            self._forget(tag)
        self._on_end()
