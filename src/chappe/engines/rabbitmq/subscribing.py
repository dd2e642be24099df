"""Subscriptions: what is asked for is pushed over one connection, opened again when it is lost; no queue keeps others waiting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple
from uuid import uuid4

from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.pushed import Source, credit_for
from chappe.engines.rabbitmq.reading import Message
from chappe.engines.rabbitmq.tasks import Tasks
from chappe.errors import BrokerError, BrokerUnavailable, NotFound
from chappe.messages.topology import Queue

log = logging.getLogger("chappe.rabbitmq")

_SOONEST, _LATEST = 0.1, 3.0  # seconds between two looks for a queue that is gone, while the others are served
_PROMPT: Final = 1.5  # seconds in which RabbitMQ begins to push, if the queue has a leader; else the queue's channel stands still
_FEW: Final = 4
_ADMITTED: Final = 1.0  # seconds at most that others wait until what came again is kept elsewhere


class Hears(NamedTuple):
    """Whom subscriptions tell: that a message `came`, all of a queue was `lost`, the connection `ended`, or something `changed`."""

    came: Callable[[Source, int, Message], None]
    lost: Callable[[Source], None]
    ended: Callable[[asyncio.Future[str]], None]
    changed: Callable[[], None]


class Subscriptions:
    """Asks RabbitMQ for what some queues have, as much of it as somebody waits for."""

    def __init__(
        self,
        queues: Sequence[str],
        temporary: Sequence[Queue],
        *,
        open_link: Callable[[], Awaitable[Link]],
        declare: Callable[[], Awaitable[None]],
        hears: Hears,
    ) -> None:
        """Prepare for queues, and for temporary ones, which are made on the connection and go with it.

        `declare` makes exist again what may have gone with a connection that was lost.
        """
        self.queues = list(queues)
        self.paused: set[str] = set()  # queues of which nothing is asked for
        self.sources = {queue: Source(queue, queue) for queue in queues}
        self.sources |= {queue.name: Source(queue.name, "", queue) for queue in temporary}
        self.link: Link | None = None
        self.changing = asyncio.Lock()  # held while RabbitMQ is told what to push
        self._open_link = open_link
        self._declare = declare
        self._hears = hears
        self._tasks = Tasks("asking for a queue")
        self._closed = False

    def all(self) -> list[Source]:
        """Return what there is of each queue."""
        return list(self.sources.values())

    @property
    def live(self) -> Link | None:
        """The connection, if there is one and it has not ended."""
        return self.link if self.link is not None and not self.link.ended.done() else None

    async def open(self) -> None:
        """Connect, and make the temporary queues, so that what is published from now on comes."""
        async with self.changing:
            await self._linked()

    async def bind_again(self) -> None:
        """Bind the temporary queues as if it had never been done: exchanges of others may have gone and come back."""
        with contextlib.suppress(BrokerUnavailable):
            async with self.changing:
                if (link := self.live) is not None:
                    await self._make_all(link)

    async def ask(self, wanted: Callable[[], int]) -> None:
        """Have RabbitMQ push so many; a queue that does not answer soon is served when it does. Raises `BrokerUnavailable`."""
        if self.live is not None and not self._short(wanted()):
            return
        async with self.changing:
            link = await self._linked()
            short = self._short(wanted())
            for source in short:
                source.asking = self._tasks.begin(self._subscribe(link, source, self._share(wanted())))
            asked = [source.asking for source in short if source.asking is not None]
            if asked and (await asyncio.wait(asked, timeout=_PROMPT))[1]:
                await self._hear_something(link)
            if asked and len(self.sources) > 1:
                await self._came(link)

    async def _hear_something(self, link: Link) -> None:
        """Look whether it is RabbitMQ itself that is silent. Raises `BrokerUnavailable`."""
        try:
            async with asyncio.timeout(_PROMPT):
                await link.channel.sync()
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ at {link.where} does not answer") from None

    async def came(self) -> None:
        """Return when what RabbitMQ has to push has come, so that what is there can be chosen from."""
        async with self.changing:
            if (link := self.live) is not None:
                await self._came(link)

    async def _came(self, link: Link) -> None:
        sources = [source for source in self.all() if source.subscription is not None]
        for source in sources:
            with contextlib.suppress(NotFound):  # its consumer hears of it
                await link.queue(source.name, passive=True)
        await asyncio.gather(*(source.channel.sync() for source in sources if source.channel is not None))
        if admissions := [source.admission for source in sources if source.admission is not None]:
            await asyncio.wait(admissions, timeout=_ADMITTED)

    async def end(self, sources: Sequence[Source]) -> None:
        """Have nothing more pushed of these; what is on its way still comes."""
        for source in sources:
            if source.subscription is not None and source.channel is not None:
                tag, source.subscription = source.subscription, None
                await source.channel.cancel(tag)

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        await self._tasks.close()
        if self.link is not None:
            await self.link.close()

    # --- asking for one

    def _short(self, wanted: int) -> list[Source]:
        share = self._share(wanted)
        return [one for one in self.all() if one.asking is None and one.queue not in self.paused and one.is_short(share)]

    def _share(self, wanted: int) -> int:
        """Return how much of what is asked for each queue should have on its way: with many queues, each has a part of it."""
        return wanted if len(self.sources) <= _FEW else max(1, _FEW * wanted // len(self.sources))

    async def _subscribe(self, link: Link, source: Source, need: int) -> None:
        """Ask for a queue; one that is gone is declared again, and looked for until it is there."""
        try:
            if source.channel is None:
                source.channel = await link.lending(lambda: self._hears.lost(source))
            await self.end([source])
            credit = credit_for(need)
            generation = source.begin(credit)
            if source.temporary is not None:
                await _make(link, source)
            source.subscription = await source.channel.consume(
                source.name,
                lambda message: self._hears.came(source, generation, message),
                prefetch=credit,
                on_cancelled=lambda: self._cancelled(source, generation),
            )
            source.absent_for = 0.0
        except NotFound as error:
            await self._miss(link, source, error)
        except BrokerUnavailable as error:
            if not link.ended.done():
                log.warning('RabbitMQ does not push what "%s" has (%s): does the queue have a leader?', source.name, error)
        finally:
            source.asking = None
            self._hears.changed()

    async def _miss(self, link: Link, source: Source, error: NotFound) -> None:
        """Have a queue that is gone be there again, and say so if it takes long: RabbitMQ finds its queues a moment after its start."""
        if "no queue" in str(error):
            source.made_on = None
        if not source.absent_for and source.temporary is None:
            await self._declare()
            with contextlib.suppress(BrokerError):  # what RabbitMQ only has not found yet cannot be declared
                await link.queue(source.name, passive=True)
                log.error(
                    'the queue "%s" was not in RabbitMQ any more, and is declared again: the plain messages that waited in it are lost, '
                    "those with a key, a delay, a priority, a result or an earlier attempt are in PostgreSQL and are not",
                    source.name,
                )
        elif source.absent_for < 1.0 <= 2 * source.absent_for:
            log.error('"%s" cannot be served (%s): it is looked for again, and the others are served', source.queue, error)
        source.absent_for = min(_LATEST, max(_SOONEST, 2 * source.absent_for))
        await asyncio.sleep(source.absent_for)

    def _cancelled(self, source: Source, generation: int) -> None:
        if source.generation == generation:
            log.warning('RabbitMQ ended the consumer of "%s": was the queue deleted?', source.name)
            source.subscription = source.made_on = None
            self._hears.changed()

    async def _linked(self) -> Link:
        if self._closed:
            raise BrokerUnavailable("this consumer is closed")
        if (link := self.live) is None:
            if self.link is not None:
                await self._declare()
            link = self.link = await self._open_link()
            link.ended.add_done_callback(self._hears.ended)
            await self._make_all(link)
        return link

    async def _make_all(self, link: Link) -> None:
        for source in self.all():
            if source.temporary is not None:
                with contextlib.suppress(NotFound):  # who asks for it says so
                    await _make(link, source)


async def _make(link: Link, source: Source) -> None:
    """Make a temporary queue exist on its connection, and bind it. Raises `NotFound` for an exchange that is not there.

    Its name is new each time: RabbitMQ may not have heard yet that an earlier connection is gone, and with it the queue.
    """
    assert source.temporary is not None
    if source.made_on is not link:
        name = f"{source.queue}.{uuid4().hex}"
        await link.queue(name, durable=False, exclusive=True, arguments={"x-queue-type": "classic"})
        source.name, source.made_on = name, link
    for binding in source.temporary.bindings:
        await link.bind(source.name, binding.exchange, binding.key)
