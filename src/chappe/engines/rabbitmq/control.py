"""What processes ask each other through RabbitMQ: how much each holds, and that it should look again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final
from uuid import uuid4

import msgspec
from msgspec import Struct
from pika import BasicProperties

from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import CONTROL
from chappe.engines.rabbitmq.reading import Message
from chappe.errors import BrokerError, BrokerUnavailable

log = logging.getLogger("chappe.rabbitmq")

_PATIENCE: Final = 1.0  # seconds for the answer of a process that may be frozen


class Question(Struct, frozen=True):
    """What is asked of everybody: how much they hold of some queues; `let_go` wants back what waits, `cancel` names one that may run."""

    id: str
    queues: tuple[str, ...] = ()
    let_go: bool = False
    cancel: str = ""


class Part(Struct, frozen=True):
    """What one session holds of a queue of RabbitMQ's."""

    out: int = 0
    waiting: int = 0


class Held(Struct, frozen=True):
    """What one session holds; `holding` is all that is out, and `cancels` says that it ends what it was asked to cancel."""

    id: str
    session: int
    queues: dict[str, Part] = {}
    holding: int = 0
    cancels: bool = False


class Control:
    """Asks others, and answers them."""

    def __init__(self, open_link: Callable[[], Awaitable[Link]], answer: Callable[[Question], Awaitable[Held]]) -> None:
        self._open_link = open_link
        self._answer = answer
        self._link: Link | None = None
        self._opening = asyncio.Lock()
        self._mine = ""
        self._asked: dict[str, asyncio.Queue[Held]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._keeping = False

    async def link(self) -> Link:
        """Return the connection, on which others are heard. Raises `BrokerUnavailable`."""
        if self._link is None or self._link.ended.done():
            async with self._opening:
                if self._link is None or self._link.ended.done():
                    link = await self._open_link()
                    try:
                        await link.exchange(CONTROL, "fanout")
                        self._mine = f"{CONTROL}.{uuid4().hex}"
                        await link.queue(self._mine, durable=False, exclusive=True, auto_delete=True)
                        await link.bind(self._mine, CONTROL, "")
                        await link.consume(self._mine, lambda message: self._heard(link, message), prefetch=0, on_cancelled=link.cut)
                    except BaseException:
                        link.cut()
                        raise
                    self._link = link
                    link.ended.add_done_callback(lambda _: self._lost())
        assert self._link is not None
        return self._link

    def keep(self) -> None:
        """Stay reachable for others from now on: this session holds something."""
        self._keeping = True

    def _lost(self) -> None:
        if self._keeping and not self._closed:
            self._begin(self._again())

    async def _again(self) -> None:
        while not self._closed:
            try:
                await self.link()
            except BrokerError as error:
                log.warning("others cannot ask this process yet: %s", error)
                await asyncio.sleep(_PATIENCE)
            else:
                return

    async def ask(self, question: Question, sessions: Collection[int]) -> list[Held]:
        """Return the answers of these sessions; who is frozen answers nothing."""
        if not sessions:
            return []
        link = await self.link()
        answers: asyncio.Queue[Held] = asyncio.Queue()
        self._asked[question.id] = answers
        missing, found = set(sessions), list[Held]()
        try:
            await self._say(link, CONTROL, "", question, self._mine)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    while missing:
                        held = await answers.get()
                        if held.session in missing:
                            missing.discard(held.session)
                            found.append(held)
        finally:
            del self._asked[question.id]
        return found

    async def _say(self, link: Link, exchange: str, routing_key: str, said: Struct, reply_to: str | None) -> None:
        properties = BasicProperties(reply_to=reply_to, type=type(said).__name__, content_type="application/json", delivery_mode=1)
        with contextlib.suppress(BrokerError):
            await link.publish(exchange, routing_key, msgspec.json.encode(said), properties, mandatory=False)

    def _heard(self, link: Link, message: Message) -> None:
        link.ack(message.tag)
        with contextlib.suppress(msgspec.MsgspecError):  # whoever else says something here
            if message.properties.type == "Held":
                held = msgspec.json.decode(message.body, type=Held)
                if held.id in self._asked:
                    self._asked[held.id].put_nowait(held)
            else:
                question = msgspec.json.decode(message.body, type=Question)
                self._begin(self._reply(link, question, message.properties.reply_to))

    async def _reply(self, link: Link, question: Question, reply_to: str | None) -> None:
        held = await self._answer(question)
        if reply_to is not None:
            await self._say(link, "", reply_to, held, None)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, BrokerUnavailable):
            log.error("asking others failed: %r", error, exc_info=error)

    def cut(self) -> None:
        """Lose the connection, as if the network had failed."""
        if self._link is not None:
            self._link.cut()

    async def close(self) -> None:
        """Say goodbye."""
        self._closed = True
        for task in list(self._tasks):  # first: one of them may be opening another connection
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
