"""Publishing: over a connection of its own, confirmed always, many at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final, NamedTuple

from noria.brokers.rabbitmq.address import Address
from noria.brokers.rabbitmq.confirms import Properties
from noria.brokers.rabbitmq.link import Link
from noria.brokers.rabbitmq.properties import properties_of
from noria.errors import BrokerError, BrokerUnavailable, Rejected, Unconfirmed, Unroutable
from noria.messages.envelope import Publication

log = logging.getLogger("noria.rabbitmq")

_DOUBT: Final = 0.3  # of the deadline
_LASTS: Final = 0.2  # seconds at least for which a connection is used, whatever was refused over it
_PATIENCE: Final = 0.05  # seconds between two tries to reach a queue that RabbitMQ has not found again


class Outgoing(NamedTuple):
    """One message for RabbitMQ."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties


def outgoing(p: Publication) -> Outgoing:
    """Give the message for a publication. Raises `Rejected` for what AMQP cannot carry."""
    return Outgoing(p.exchange, p.routing_key, p.envelope.body, properties_of(p.envelope))


class Outlet:
    """The way out of one event loop; opened with the first message, and again whenever it was lost."""

    def __init__(self, address: Address, *, name: str, deadline: float) -> None:
        self._address = address
        self._name = name
        self._deadline = deadline
        self._link: Link | None = None
        self._opening = asyncio.Lock()
        self._opened = 0.0
        self._doubted: set[Link] = set()  # those that are being asked whether they live
        self._retired: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def link(self) -> Link:
        """Give the connection. Raises `BrokerUnavailable`."""
        link = self._link
        if link is not None and not self._is_spent(link):
            return link
        async with self._opening:
            link = self._link
            if link is not None and not self._is_spent(link):
                return link
            if link is not None and not link.ended.done():
                self._begin(self._retire(link))
            self._opened = asyncio.get_running_loop().time()
            link = self._link = await Link.open(self._address, name=self._name, deadline=self._deadline)
            link.on_blocked = _say_blocked
            return link

    def _is_spent(self, link: Link) -> bool:
        """Tell whether another connection is needed."""
        return link.ended.done() or (link.is_doubtful and asyncio.get_running_loop().time() - self._opened > _LASTS)

    async def _retire(self, link: Link) -> None:
        """Close a connection when what was sent over it is answered, or not."""
        self._retired.add(link)
        if link.unconfirmed:
            await asyncio.wait([link.ended], timeout=self._deadline)  # by then each has its answer
        await link.close()
        self._retired.discard(link)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def publish(self, messages: Sequence[Outgoing], *, known: bool) -> None:
        """Have messages stored, and return when all are. Raises `Rejected` if none can be, and `Unconfirmed` if some may be.

        `known` says that their queues were declared: RabbitMQ may not have found all of them again since it was started.
        """
        outcomes = await self.publish_each(messages, known=known)
        errors = [outcome for outcome in outcomes if outcome is not None]
        if not errors:
            return
        for error in errors:
            if not isinstance(error, Rejected) or len(messages) == 1:
                raise error
        if len(errors) == len(messages):
            raise errors[0]
        raise Unconfirmed(f"{len(errors)} of {len(messages)} messages were refused ({errors[0]}), the others are stored")

    async def publish_each(self, messages: Sequence[Outgoing], *, known: bool) -> list[Exception | None]:
        """Send messages and tell of each what became of it; see `publish`. Raises `BrokerUnavailable` if nothing was sent."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline
        outcomes = await self._publish_once(messages)
        while known and loop.time() < until:
            returned = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Unroutable)]
            if not returned:
                break
            await asyncio.sleep(_PATIENCE)
            for number, outcome in zip(returned, await self._publish_once([messages[n] for n in returned]), strict=True):
                outcomes[number] = outcome
        return outcomes

    async def _publish_once(self, messages: Sequence[Outgoing]) -> list[Exception | None]:
        link = await self.link()
        if link.blocked is not None:
            raise BrokerUnavailable(f"RabbitMQ at {link.where} takes no messages now ({link.blocked}); nothing was stored, try again later")
        sent = [link.publish(*message) for message in messages]
        doubt = asyncio.get_running_loop().call_later(_DOUBT * self._deadline, self._doubt, link)
        try:
            if len(sent) == 1:
                link.flush()
                try:
                    await sent[0]
                except Exception as error:  # each kind of it is an answer
                    return [error]
                return [None]
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
            return [outcome if isinstance(outcome, Exception) else None for outcome in outcomes]
        finally:
            doubt.cancel()

    def _doubt(self, link: Link) -> None:
        """Ask whether somebody is there, where nothing was confirmed for long: heartbeats would tell later, or not at all."""
        if link not in self._doubted:
            self._doubted.add(link)
            self._begin(self._prove(link))

    async def _prove(self, link: Link) -> None:
        heard = link.heard
        try:
            async with asyncio.timeout(_DOUBT * self._deadline):
                await link.sync()
        except (TimeoutError, BrokerError) as error:
            if link.blocked is None and not link.ended.done() and link.heard == heard:
                log.warning(
                    "RabbitMQ at %s confirms nothing and answers nothing (%s); opening another connection", link.where, error or "silence"
                )
                link.cut()
        finally:
            self._doubted.discard(link)

    def cut(self) -> None:
        """Lose the connection, as if the network had failed."""
        if self._link is not None:
            self._link.cut()

    async def close(self) -> None:
        """Say goodbye."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in {*self._retired, self._link} if link is not None))


def _say_blocked(reason: str | None) -> None:
    if reason is None:
        log.warning("RabbitMQ takes messages again")
    else:
        log.warning("RabbitMQ takes no messages now: %s", reason)
