"""Subscriptions: what is asked for is pushed over one connection, opened again when it is lost; no queue keeps others waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import uuid4

from chappe.engines.rabbitmq.lane import Lane, admitted, credit_for
from chappe.engines.rabbitmq.lanes import QUORUM, lanes_of
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.reading import Message
from chappe.errors import BrokerError, BrokerUnavailable, NotFound
from chappe.messages.topology import Queue

log = logging.getLogger("chappe.rabbitmq")

_AGAIN: Final = 0.1  # seconds between two tries to prove that a queue answers
_SOONEST, _LATEST = 0.1, 3.0  # seconds between two looks for a queue that is gone, while the others are served
_PROMPT: Final = 1.5  # seconds in which RabbitMQ begins to push, if the queue has a leader; else its channel stands still for five
_ALWAYS_THERE: Final = "amq.direct"
_PROVERS: Final = 4  # connections at most by which queues are asked whether they have a leader again
_FEW: Final = 4


class Hears(NamedTuple):
    """Whom subscriptions tell: of a message that `came`, of a connection that was `lost`, and that there is something to look at anew."""

    came: Callable[[Link, Lane, int, Message], None]
    lost: Callable[[Link], None]
    changed: Callable[[], None]


class Subscriptions:
    """Asks RabbitMQ for what the lanes of some queues have, as much of it as somebody waits for."""

    def __init__(
        self,
        queues: Mapping[str, int],
        temporary: Sequence[Queue],
        *,
        open_link: Callable[[], Awaitable[Link]],
        declare: Callable[[], Awaitable[None]],
        hears: Hears,
    ) -> None:
        """Prepare for queues with their lanes, and for temporary ones, which are made on the connection and go with it.

        `declare` makes exist again what may have gone with a connection that was lost.
        """
        self.lanes = {queue: [Lane(queue, *lane) for lane in lanes_of(queue, lanes).items()] for queue, lanes in queues.items()}
        self.lanes |= {queue.name: [Lane(queue.name, "", 0, temporary=queue)] for queue in temporary}
        self.link: Link | None = None
        self.changing = asyncio.Lock()  # held while RabbitMQ is told what to push
        self._open_link = open_link
        self._declare = declare
        self._hears = hears
        self._provers = asyncio.Semaphore(_PROVERS)
        self._proving: set[asyncio.Task[None]] = set()
        self._closed = False

    def all(self) -> list[Lane]:
        """Return the lanes of all queues."""
        return [lane for lanes in self.lanes.values() for lane in lanes]

    def open_lane(self, queue: str, lanes: int) -> None:
        """Hear that a queue has more lanes than it had."""
        known = self.lanes.get(queue)
        if known is not None and len(known) < len(names := lanes_of(queue, lanes)):
            by_name = {lane.name: lane for lane in known}
            self.lanes[queue] = [by_name.get(name) or Lane(queue, name, sign) for name, sign in names.items()]
            self._hears.changed()

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
        async with self.changing:
            for lane in self.all():
                if lane.temporary is not None and (link := self.live) is not None:
                    lane.is_bound = False
                    await self._made(link, lane, lane.temporary)

    async def ask(self, wanted: Callable[[], int]) -> None:
        """Have RabbitMQ push so many. Raises `BrokerUnavailable`, or `NotFound` for a queue that is gone."""
        if self.live is not None and not self._short(wanted()):
            return
        async with self.changing:
            link = await self._linked()
            short = self._short(wanted())
            missing: NotFound | None = None
            for lane in short:
                try:
                    async with asyncio.timeout(_PROMPT):
                        await self._subscribe(link, lane, wanted())
                except TimeoutError:
                    await self._hear_nothing(link, lane, [one for one in short if one.subscription is None])
                    return
                except NotFound as error:
                    missing, lane.made_on = error, None
                    self._miss(lane, error)
                else:
                    lane.absent_for = 0.0
            lanes = [lane for lane in self.all() if lane.subscription is not None]
            if not lanes and missing is not None:
                raise missing
            if short and len(lanes) > 1:  # what is there must have come before anything is chosen
                for lane in lanes:
                    await link.queue(lane.name, passive=True)
                await link.sync()
                await admitted(lanes)

    async def end(self, link: Link, lanes: Sequence[Lane]) -> None:
        """Have nothing more pushed of these lanes; what is on its way still comes."""
        for lane in lanes:
            if lane.subscription is not None:
                tag, lane.subscription = lane.subscription, None
                await link.cancel(tag)

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        for proving in self._proving:
            proving.cancel()
        await asyncio.gather(*self._proving, return_exceptions=True)
        if self.link is not None:
            await self.link.close()

    def cut(self) -> None:
        """Lose the connection, as if the network had failed."""
        if self.link is not None:
            self.link.cut()

    # --- asking for one

    def _short(self, wanted: int) -> list[Lane]:
        now, share = asyncio.get_running_loop().time(), self._share(wanted)
        return [lane for lane in self.all() if lane.is_short(share) and not lane.is_away(now)]

    def _share(self, wanted: int) -> int:
        """Return how much of what is asked for each queue should have on its way: with many queues, each has a part of it."""
        return wanted if len(self.lanes) <= _FEW else max(1, _FEW * wanted // len(self.lanes))

    async def _subscribe(self, link: Link, lane: Lane, wanted: int) -> None:
        await self.end(link, [lane])
        credit = credit_for(self._share(wanted))
        generation = lane.begin(credit)
        if lane.temporary is not None:
            await _make(link, lane, lane.temporary)
        elif lane.sign:
            await link.queue(lane.name, arguments=QUORUM)
        lane.subscription = await link.consume(
            lane.name,
            lambda message: self._hears.came(link, lane, generation, message),
            prefetch=credit,
            on_cancelled=lambda: self._cancelled(lane, generation),
        )

    def _cancelled(self, lane: Lane, generation: int) -> None:
        if lane.generation == generation:
            log.error('RabbitMQ ended the consumer of "%s": was the queue deleted?', lane.name)
            lane.subscription = lane.made_on = None
            self._hears.changed()

    async def _linked(self) -> Link:
        if self._closed:
            raise BrokerUnavailable("this consumer is closed")
        if (link := self.live) is None:
            if self.link is not None:
                await self._declare()
            link = self.link = await self._open_link()
            link.ended.add_done_callback(lambda _: self._hears.lost(link))
            for lane in self.all():
                if lane.temporary is not None:
                    await self._made(link, lane, lane.temporary)
        return link

    async def _made(self, link: Link, lane: Lane, queue: Queue) -> None:
        try:
            await _make(link, lane, queue)
        except NotFound as error:
            self._miss(lane, error)

    # --- queues that do not answer

    def _miss(self, lane: Lane, error: NotFound) -> None:
        """Look for a queue later, and say so if it takes long: after its start RabbitMQ needs a moment to find its queues."""
        lane.looked_at = asyncio.get_running_loop().time()
        if lane.absent_for < 1.0 <= 2 * lane.absent_for:
            log.error('"%s" cannot be served (%s): it is looked for again, and the others are served', lane.queue, error)
        lane.absent_for = min(_LATEST, max(_SOONEST, 2 * lane.absent_for))

    async def _hear_nothing(self, link: Link, mute: Lane, others: Sequence[Lane]) -> None:
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
        for lane in others:
            if lane.temporary is None:
                lane.is_mute = True
                proving = asyncio.get_running_loop().create_task(self._prove(lane))
                self._proving.add(proving)
                proving.add_done_callback(self._proved)
            else:
                lane.looked_at, lane.absent_for = asyncio.get_running_loop().time(), _LATEST
        link.cut()

    def _proved(self, proving: asyncio.Task[None]) -> None:
        self._proving.discard(proving)
        if not proving.cancelled() and (error := proving.exception()) is not None:
            log.error("asking for a queue failed: %r", error, exc_info=error)

    async def _prove(self, lane: Lane) -> None:
        """Ask for a queue over connections that nobody else needs, until it answers."""
        while not self._closed:
            try:
                async with self._provers, asyncio.timeout(_PROMPT):
                    link = await self._open_link()
                    try:
                        await link.consume(lane.name, lambda _: None, prefetch=1, on_cancelled=lambda: None)
                    finally:
                        link.cut()  # what came goes back
            except NotFound:
                break  # whoever asks for it next says so
            except (TimeoutError, BrokerError):
                await asyncio.sleep(_AGAIN)
            else:
                break
        lane.is_mute = False
        self._hears.changed()


async def _make(link: Link, lane: Lane, queue: Queue) -> None:
    """Make a temporary queue exist on its connection. Raises `NotFound` for an exchange that is not there.

    Its name is new each time: RabbitMQ may not have heard yet that an earlier connection is gone, and with it the queue.
    """
    if lane.made_on is not link:
        name = f"{queue.name}.{uuid4().hex}"
        await link.queue(name, durable=False, exclusive=True, arguments={"x-queue-type": "classic"})
        lane.name, lane.made_on, lane.is_bound = name, link, False
    if not lane.is_bound:
        for binding in queue.bindings:
            await link.bind(lane.name, binding.exchange, binding.key)
        lane.is_bound = True
