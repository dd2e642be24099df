"""Publishing: over a connection of its own, confirmed always, many at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.confirms import Outgoing, raise_if_refused
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.properties import properties_of
from chappe.engines.rabbitmq.tasks import Tasks
from chappe.errors import BrokerError, BrokerUnavailable, Unconfirmed, Unroutable
from chappe.messages.envelope import Publication

log = logging.getLogger("chappe.rabbitmq")

_DOUBT: Final = 0.3  # of the deadline
_LASTS, _LASTS_AT_MOST = 0.2, 2.0  # seconds for which a connection is used whatever was refused over it: more each time
_PATIENCE: Final = 0.05  # seconds between two tries to reach a queue that RabbitMQ has not found again


def outgoing(p: Publication) -> Outgoing:
    """Return the message for a publication. Raises `Rejected` for what AMQP cannot carry."""
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
        self._lasts = _LASTS
        self._doubted: set[Link] = set()  # those that are being asked whether they live
        self._tasks = Tasks("publishing")

    async def link(self, until: float) -> Link:
        """Return the connection, by that time of the loop. Raises `BrokerUnavailable`."""
        link = self._link
        if link is not None and not self._is_spent(link):
            return link
        try:
            async with asyncio.timeout_at(until):
                await self._opening.acquire()
        except TimeoutError:
            raise BrokerUnavailable("RabbitMQ does not take a connection; nothing was sent") from None
        try:
            link = self._link
            if link is not None and not self._is_spent(link):
                return link
            if link is not None and not link.ended.done():
                self._tasks.begin(self._retire(link))
            now = asyncio.get_running_loop().time()
            again = link is not None and link.is_doubtful and now - self._opened < 2 * _LASTS_AT_MOST
            self._lasts = min(_LASTS_AT_MOST, 2 * self._lasts) if again else _LASTS
            self._opened = now
            link = self._link = await Link.open(self._address, name=self._name, deadline=self._deadline, until=until)
            return link
        finally:
            self._opening.release()

    def _is_spent(self, link: Link) -> bool:
        """Tell whether another connection is needed."""
        return link.ended.done() or (link.is_doubtful and asyncio.get_running_loop().time() - self._opened > self._lasts)

    async def _retire(self, link: Link) -> None:
        """Close a connection when what was sent over it has its answer, or gets none."""
        try:
            await asyncio.wait([link.ended], timeout=self._deadline)
        finally:
            await link.close()

    async def publish(self, messages: Sequence[Outgoing], *, known: bool) -> None:
        """Have messages stored, and return when all are. Raises `Rejected` if none can be, and `Unconfirmed` if some may be.

        `known` says that their queues were declared: RabbitMQ may not have found all of them again since it was started.
        """
        raise_if_refused(await self.publish_each(messages, known=known))

    async def publish_each(self, messages: Sequence[Outgoing], *, known: bool) -> list[Exception | None]:
        """Send messages and tell of each what became of it; see `publish`. Raises `BrokerUnavailable` if nothing was sent.

        It ends within the deadline: connecting and waiting for the answers share it.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline
        outcomes = await self._publish_once(messages, until)
        while known and loop.time() < until:
            returned = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Unroutable)]
            if not returned:
                break
            await asyncio.sleep(_PATIENCE)
            for number, outcome in zip(returned, await self._publish_once([messages[n] for n in returned], until), strict=True):
                outcomes[number] = outcome
        return outcomes

    async def _publish_once(self, messages: Sequence[Outgoing], until: float) -> list[Exception | None]:
        link = await self.link(until)
        if link.blocked is not None:
            raise BrokerUnavailable(f"RabbitMQ at {link.where} takes no messages now ({link.blocked}); nothing was stored, try again later")
        loop = asyncio.get_running_loop()
        answered = link.publish(messages, until - loop.time())
        link.flush()
        doubt = loop.call_later(_DOUBT * self._deadline, self._doubt, link)
        try:
            outcomes = await answered
        finally:
            doubt.cancel()
        if any(isinstance(outcome, Unconfirmed) for outcome in outcomes):
            link.is_doubtful = True
        return outcomes

    def _doubt(self, link: Link) -> None:
        """Ask whether somebody is there, where nothing was confirmed for long: heartbeats would tell later, or not at all."""
        if link not in self._doubted:
            self._doubted.add(link)
            self._tasks.begin(self._prove(link))

    async def _prove(self, link: Link) -> None:
        heard = link.heard
        try:
            async with asyncio.timeout(_DOUBT * self._deadline):
                await link.channel.sync()
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
        await self._tasks.close()
        if self._link is not None:
            await self._link.close()
