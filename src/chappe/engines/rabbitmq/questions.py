"""What RabbitMQ is asked on one connection: each question is bounded in time, and its answer brought to who asked."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from chappe.errors import BrokerError, BrokerUnavailable, NotFound, TopologyConflict, Unconfirmed

_REFUSALS: Final[dict[int, type[BrokerError]]] = {404: NotFound, 406: TopologyConflict}
_UNSAYABLE: Final = (AMQPError, AssertionError, TypeError, ValueError, struct.error)  # what pika raises before it sends anything

Answer = Callable[[Any], None]  # pika calls it with a frame of the method that answers


class Question:
    """Something that is asked; `harmless` if nothing may have been done when there is no answer, as until it is said."""

    def __init__(self) -> None:
        self.harmless = True

    def unanswered(self, why: str) -> BrokerError:
        """Return the error for who asked."""
        return BrokerUnavailable(why) if self.harmless else Unconfirmed(f"{why}; it may be done or not")


class Questions:
    """The questions of one connection that wait for their answers."""

    def __init__(self, where: str, deadline: float) -> None:
        self._where = where
        self._deadline = deadline
        self._waiting: dict[asyncio.Future[Any], Channel | None] = {}
        self._stopped: str | None = None

    def check(self) -> None:
        """Raise `BrokerUnavailable` if nothing may be said any more."""
        if self._stopped is not None:
            raise BrokerUnavailable(f"the connection to RabbitMQ at {self._where} has ended: {self._stopped}")

    def stop(self, why: str) -> None:
        """Take no more questions; those that were asked may still be answered."""
        self._stopped = why

    def fail(self, why: str) -> None:
        """Take no more questions, and fail those that wait."""
        self._stopped = why
        for future in self._waiting:
            if not future.done():
                future.set_exception(BrokerUnavailable(f"the connection to RabbitMQ at {self._where} has ended: {why}"))
                future.exception()  # who gave up waiting has no use for it

    def refuse(self, channel: Channel, error: ChannelClosedByBroker) -> None:
        """Fail what waits for an answer on a channel with what RabbitMQ said when it closed that."""
        for future, asked in self._waiting.items():
            if asked is channel and not future.done():
                future.set_exception(_REFUSALS.get(error.reply_code, BrokerError)(f"{error.reply_text} ({error.reply_code})"))

    @asynccontextmanager
    async def bounded(self, what: str) -> AsyncGenerator[Question]:
        """Return a question, and the error of that for what takes longer than the deadline, or than the connection lasts."""
        self.check()
        question = Question()
        try:
            async with asyncio.timeout(self._deadline):
                yield question
        except TimeoutError:
            raise question.unanswered(f"RabbitMQ at {self._where} did not {what} within {self._deadline:g} s") from None
        except BrokerUnavailable as error:
            raise question.unanswered(str(error)) from None
        except _UNSAYABLE as error:
            raise BrokerError(f"RabbitMQ cannot be asked to {what}: {error!r}") from None

    async def answer(self, say: Callable[[Answer], object], channel: Channel | None = None) -> Any:
        """Say something that takes an `Answer`, and return the method that RabbitMQ answers with."""
        self.check()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[future] = channel
        try:
            say(lambda frame: None if future.done() else future.set_result(frame))
            return await future
        finally:
            del self._waiting[future]
