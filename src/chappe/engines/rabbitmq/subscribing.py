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

_AGAIN: Final = 0.1  # seconds between two tries to prove that a queue answers
_SOONEST, _LATEST = 0.1, 3.0  # seconds between two looks for a queue that is gone, while the others are served
_PROMPT: Final = 1.5  # seconds in which RabbitMQ begins to push, if the queue has a leader; else its channel stands still for five
_ALWAYS_THERE: Final = "amq.direct"
_PROVERS: Final = 4  # connections at most by which queues are asked whether they have a leader again
_FEW: Final = 4
_ADMITTED: Final = 1.0  # seconds at most that others wait until what came again is kept elsewhere


class Hears(NamedTuple):
    """Whom subscriptions tell: of a message that `came`, of a connection that was `lost`, and that there is something to look at anew."""

    came: Callable[[Link, Source, int, Message], None]
    lost: Callable[[Link], None]
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
        self.sources |= {queue.name: Source(queue.name, "", temporary=queue) for queue in temporary}
        self.link: Link | None = None
        self.changing = asyncio.Lock()  # held while RabbitMQ is told what to push
        self._open_link = open_link
        self._declare = declare
        self._hears = hears
        self._provers = asyncio.Semaphore(_PROVERS)
        self._proving = Tasks("asking for a queue")
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
                for source in self.all():
                    if source.temporary is not None and (link := self.live) is not None:
                        source.is_bound = False
                        await self._made(link, source, source.temporary)

    async def ask(self, wanted: Callable[[], int]) -> None:
        """Have RabbitMQ push so many. Raises `BrokerUnavailable`, or `NotFound` for a queue that is gone."""
        if self.live is not None and not self._short(wanted()):
            return
        async with self.changing:
            link = await self._linked()
            short = self._short(wanted())
            missing: NotFound | None = None
            gone: list[Source] = []
            for source in short:
                try:
                    async with asyncio.timeout(_PROMPT):
                        await self._subscribe(link, source, wanted())
                except TimeoutError:
                    await self._hear_nothing(link, source, [one for one in short if one.subscription is None])
                    return
                except NotFound as error:
                    missing, source.made_on = error, None
                    if not source.absent_for and source.temporary is None:
                        gone.append(source)
                    self._miss(source, error)
                else:
                    source.absent_for = 0.0
            if gone:
                await self._declare_again(link, gone)
            sources = [source for source in self.all() if source.subscription is not None]
            if not sources and missing is not None and not gone:
                raise missing
            if short and len(sources) > 1:
                await self._came(link)

    async def _declare_again(self, link: Link, gone: Sequence[Source]) -> None:
        """Have queues that are gone be there again, and say which were: what RabbitMQ only has not found yet cannot be declared."""
        await self._declare()
        for source in gone:
            with contextlib.suppress(BrokerError):
                await link.queue(source.name, passive=True)
                log.error(
                    'the queue "%s" was not in RabbitMQ any more, and is declared again: the plain messages that waited in it are lost, '
                    "those with a key, a delay, a priority, a result or an earlier attempt are in PostgreSQL and are not",
                    source.name,
                )

    async def came(self) -> None:
        """Return when what RabbitMQ has to push has come, so that what is there can be chosen from."""
        async with self.changing:
            if (link := self.live) is not None:
                await self._came(link)

    async def _came(self, link: Link) -> None:
        sources = [source for source in self.all() if source.subscription is not None]
        for source in sources:
            await link.queue(source.name, passive=True)
        await link.channel.sync()
        if admissions := [source.admission for source in sources if source.admission is not None]:
            await asyncio.wait(admissions, timeout=_ADMITTED)

    async def end(self, link: Link, sources: Sequence[Source]) -> None:
        """Have nothing more pushed of these; what is on its way still comes."""
        for source in sources:
            if source.subscription is not None:
                tag, source.subscription = source.subscription, None
                await link.channel.cancel(tag)

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        await self._proving.close()
        if self.link is not None:
            await self.link.close()

    def cut(self) -> None:
        """Lose the connection, as if the network had failed."""
        if self.link is not None:
            self.link.cut()

    # --- asking for one

    def _short(self, wanted: int) -> list[Source]:
        now, share = asyncio.get_running_loop().time(), self._share(wanted)
        return [source for source in self.all() if source.is_short(share) and not source.is_away(now) and source.queue not in self.paused]

    def _share(self, wanted: int) -> int:
        """Return how much of what is asked for each queue should have on its way: with many queues, each has a part of it."""
        return wanted if len(self.sources) <= _FEW else max(1, _FEW * wanted // len(self.sources))

    async def _subscribe(self, link: Link, source: Source, wanted: int) -> None:
        await self.end(link, [source])
        credit = credit_for(self._share(wanted))
        generation = source.begin(credit)
        if source.temporary is not None:
            await _make(link, source, source.temporary)
        await link.queue(source.name, passive=True)  # refused, consuming would end the connection
        source.subscription = await link.channel.consume(
            source.name,
            lambda message: self._hears.came(link, source, generation, message),
            prefetch=credit,
            on_cancelled=lambda: self._cancelled(source, generation),
        )

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
            link.ended.add_done_callback(lambda _: self._hears.lost(link))
            for source in self.all():
                if source.temporary is not None:
                    await self._made(link, source, source.temporary)
        return link

    async def _made(self, link: Link, source: Source, queue: Queue) -> None:
        try:
            await _make(link, source, queue)
        except NotFound as error:
            self._miss(source, error)

    # --- queues that do not answer

    def _miss(self, source: Source, error: NotFound) -> None:
        """Look for a queue later, and say so if it takes long: after its start RabbitMQ needs a moment to find its queues."""
        source.looked_at = asyncio.get_running_loop().time()
        if source.absent_for < 1.0 <= 2 * source.absent_for:
            log.error('"%s" cannot be served (%s): it is looked for again, and the others are served', source.queue, error)
        source.absent_for = min(_LATEST, max(_SOONEST, 2 * source.absent_for))

    async def _hear_nothing(self, link: Link, mute: Source, others: Sequence[Source]) -> None:
        """Go on without a queue that has no leader: what else is asked on a channel that waits for one waits too, so this needs another.

        Those that were to be asked next may have none either: all of them have to prove that they have. Raises `BrokerUnavailable` if it is
        RabbitMQ itself that is silent: then nothing is gained by giving back what is out.
        """
        try:
            async with asyncio.timeout(_PROMPT):
                await link.exchange(_ALWAYS_THERE, "direct", passive=True)
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ at {link.where} does not answer") from None
        log.warning('RabbitMQ does not push what "%s" has: does the queue have a leader? The others are served', mute.name)
        for source in others:
            if source.temporary is None:
                source.is_mute = True
                self._proving.begin(self._prove(source))
            else:
                source.looked_at, source.absent_for = asyncio.get_running_loop().time(), _LATEST
        link.cut()

    async def _prove(self, source: Source) -> None:
        """Ask for a queue over connections that nobody else needs, until it answers."""
        while not self._closed:
            try:
                async with self._provers, asyncio.timeout(_PROMPT):
                    link = await self._open_link()
                    try:
                        await link.queue(source.name, passive=True)
                        await link.channel.consume(source.name, lambda _: None, prefetch=1, on_cancelled=lambda: None)
                    finally:
                        link.cut()  # what came goes back
            except NotFound:
                break  # whoever asks for it next says so
            except (TimeoutError, BrokerError):
                await asyncio.sleep(_AGAIN)
            else:
                break
        source.is_mute = False
        self._hears.changed()


async def _make(link: Link, source: Source, queue: Queue) -> None:
    """Make a temporary queue exist on its connection. Raises `NotFound` for an exchange that is not there.

    Its name is new each time: RabbitMQ may not have heard yet that an earlier connection is gone, and with it the queue.
    """
    if source.made_on is not link:
        name = f"{queue.name}.{uuid4().hex}"
        await link.queue(name, durable=False, exclusive=True, arguments={"x-queue-type": "classic"})
        source.name, source.made_on, source.is_bound = name, link, False
    if not source.is_bound:
        for binding in queue.bindings:
            await link.bind(source.name, binding.exchange, binding.key)
        source.is_bound = True
