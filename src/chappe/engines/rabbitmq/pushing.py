"""What RabbitMQ pushes to one consumer: taken in, in its order, adopted where it comes again, given back where nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from chappe.engines.contract.broker import Dead, Delivery, Retry, Settlement
from chappe.engines.rabbitmq.control import Part
from chappe.engines.rabbitmq.kept import KeptConsumer, tag_of
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.properties import COPIES, envelope_of
from chappe.engines.rabbitmq.pushed import Item, Said, Source
from chappe.engines.rabbitmq.reading import Message
from chappe.engines.rabbitmq.subscribing import Hears, Subscriptions
from chappe.engines.rabbitmq.tasks import Tasks
from chappe.errors import BrokerError
from chappe.messages.envelope import Publication
from chappe.messages.topology import Queue

log = logging.getLogger("chappe.rabbitmq")

_IDLE: Final = 0.03  # seconds without anybody who waits, after which what was pushed in vain goes back to others
_AGAIN: Final = 0.1  # seconds between two tries to connect; RabbitMQ refuses queues that it has not found again since its start
_KEPT_PAUSE: Final = 0.5
_LATER_AT_MOST: Final = 10_000


class Ways(NamedTuple):
    """What a consumer needs of its broker.

    `publish` publishes what is not said yet, and notes what it says. `declare` makes exist again what may have gone with a connection;
    `type_of` names what came without a type, by its queue, exchange and routing key.
    """

    open_link: Callable[[], Awaitable[Link]]
    publish: Callable[[Sequence[Publication], set[Said]], Awaitable[None]]
    declare: Callable[[], Awaitable[None]]
    type_of: Callable[[str, str, str], str]


class Pushing:
    """The messages that RabbitMQ has lent to one consumer, over a connection that is opened again when it is lost.

    `out` are those that were lent on, by their tags, and `waiting` counts who waits for more.
    """

    def __init__(
        self,
        queues: Sequence[str],
        temporary: Sequence[Queue],
        *,
        kept: KeptConsumer,
        ways: Ways,
        arrived: asyncio.Event,
        told: Callable[[], None],
    ) -> None:
        """Prepare; `arrived` is set when something is ready, and `told` called when there may be more of what is kept."""
        self.subscriptions = Subscriptions(
            queues, temporary, open_link=ways.open_link, declare=ways.declare, hears=Hears(self._came, self._lost, self._ended, arrived.set)
        )
        self.out: dict[int, Item] = {}
        self.waiting = 0
        self._type_of = ways.type_of
        self._kept = kept
        self._arrived = arrived
        self._told = told
        self._turns = list(self.subscriptions.sources)
        self._later: dict[Item, asyncio.TimerHandle] = {}  # what of temporary queues waits for its next attempt
        self._idle: asyncio.TimerHandle | None = None
        self._tasks = Tasks("receiving from RabbitMQ")
        self.begin = self._tasks.begin  # what goes on in the background
        self._closed = False

    def held(self, queue: str) -> Part:
        """Tell what is here of a queue of RabbitMQ's."""
        out = sum(1 for item in self.out.values() if item.source.queue == queue)
        source = self.subscriptions.sources.get(queue)
        if source is None:
            return Part(out)
        return Part(out, len(source.ready) + len(source.incoming))

    async def admitted(self) -> None:
        """Return when nothing is on its way between RabbitMQ and what is kept, or after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEPT_PAUSE), self.subscriptions.changing:
                admissions = [source.admission for source in self.subscriptions.all() if source.admission is not None]
                if admissions:
                    await asyncio.wait(admissions)

    @contextlib.contextmanager
    def awaited(self) -> Generator[None]:
        """Have what comes meanwhile not be given back: somebody waits for it."""
        self.waiting += 1
        self._rest(forget=True)
        try:
            yield
        finally:
            self.waiting -= 1
            self._rest()

    def _rest(self, *, forget: bool = False) -> None:
        """Return soon what comes while nobody waits."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not forget and not self.waiting and not self._closed:
            self._idle = asyncio.get_running_loop().call_later(_IDLE, self._rested)

    def _rested(self) -> None:
        self._idle = None
        self.begin(self._release())

    async def make_room(self) -> None:
        """Return to others what waits here while something runs alone."""
        if sources := [source for source in self.subscriptions.all() if any(item.is_unsettled for item in source.ready)]:
            async with self.subscriptions.changing:
                await self._let_go(sources)

    def take(self, limit: int) -> list[Delivery]:
        """Lend on what came, the queues in turn."""
        taken: list[Delivery] = []
        if self._closed or self._kept.is_alone:
            return taken
        for queue in self._turns:
            source = self.subscriptions.sources[queue]
            while source.ready and len(taken) < limit:
                item = source.ready.popleft()
                self.out[item.tag] = item
                taken.append(item.delivery())
        if taken:
            self._turns.append(self._turns.pop(0))
        return taken

    def _came(self, source: Source, generation: int, message: Message) -> None:
        headers: Mapping[str, Any] = message.properties.headers or {}
        properties = message.properties
        fallback = "" if properties.type else self._type_of(source.queue, message.exchange, message.routing_key)
        envelope = envelope_of(properties, message.body, fallback=fallback)
        is_ours = source.temporary is None  # what is relayed is kept for our queues, and for no temporary one
        tag = tag_of(source.queue, envelope.id)
        item = Item(message.tag, source, generation, envelope, tag, message.redelivered and is_ours)
        source.unsettled[message.tag] = item
        if generation == source.generation:
            source.used += 1
        if COPIES in headers and is_ours:
            self.end([item], [])
            return
        if source.incoming or item.again:
            source.incoming.append(item)
            self._admit_soon(source)
        else:
            source.ready.append(item)
            self._arrived.set()
        if not self.waiting and self._idle is None:
            self._rest()

    def _admit_soon(self, source: Source) -> None:
        if source.admission is None and source.incoming and not self._closed:
            source.admission = self.begin(self._admit(source))

    async def _admit(self, source: Source) -> None:
        """Have what a worker died with be kept elsewhere, where it waits until it runs alone; what was given back is lent on."""
        try:
            while (channel := source.channel) is not None and source.incoming and not self._closed:
                batch = list(source.incoming)
                again = [item for item in batch if item.again]
                try:
                    blamed = await self._kept.blamed(again) if again else set[int]()
                    killers = [item for item in again if item.tag in blamed]
                    if killers:
                        await self._kept.adopt(killers)
                except BrokerError as error:
                    log.warning("what came again cannot be kept (%s); trying again", error)
                    await asyncio.sleep(_KEPT_PAUSE)
                    continue
                except Exception:  # whatever it is: what came and is never looked at would leave this consumer deaf
                    log.exception("what came again cannot be kept; trying again")
                    await asyncio.sleep(_KEPT_PAUSE)
                    continue
                if channel is not source.channel:
                    return  # RabbitMQ lends it once more, to somebody
                for item in batch:
                    source.incoming.popleft()
                    if item.tag not in blamed:
                        source.ready.append(item)
                self.end(killers, [])
                (self._told if killers else self._arrived.set)()
        finally:
            source.admission = None
            self._admit_soon(source)  # what came over another connection meanwhile

    async def shrink(self, prefetch: int) -> None:
        """Have nothing pushed into room that there is no more: what has to go back may lose its place to what is asked for right after."""
        async with self.subscriptions.changing:
            with contextlib.suppress(BrokerError):
                await self.subscriptions.end([one for one in self.subscriptions.all() if one.credit > prefetch])

    def settle_temporary(self, settlement: Settlement, item: Item) -> None:
        """Keep what came through a temporary queue for its next attempt, or drop it: nothing of such a queue is kept elsewhere."""
        self.end([item], [])
        if isinstance(settlement, Dead):
            log.error(
                '%s %s is dropped (%s): a temporary queue like "%s" has no dead letters',
                item.envelope.type, item.envelope.id, settlement.reason, item.source.queue,
            )  # fmt: skip
            return
        assert isinstance(settlement, Retry)
        if not is_untouched(settlement):
            item.attempt, item.note = item.attempt + settlement.counted, settlement.note
        if settlement.after <= 0:
            self._ready_again(item)
        elif len(self._later) < _LATER_AT_MOST:
            self._later[item] = asyncio.get_running_loop().call_later(settlement.after, self._ready_again, item)
        else:
            log.error(
                "%s %s is dropped: %d others of temporary queues wait for their next attempt",
                item.envelope.type,
                item.envelope.id,
                len(self._later),
            )

    def _ready_again(self, item: Item) -> None:
        self._later.pop(item, None)
        ready = item.source.ready
        ready.insert(next((place for place, other in enumerate(ready) if other.number > item.number), len(ready)), item)
        self._arrived.set()

    async def give_back(self, back: Sequence[Item]) -> None:
        """Return messages back to their places; if nobody waits here they must not come here again, only to lose their places later."""
        try:
            if back and not self.waiting:
                await self._release()
        finally:
            self.end([], back)

    def end(self, done: Sequence[Item], back: Sequence[Item]) -> None:
        """Tell RabbitMQ what is done and what goes back to its place."""
        for item in back:
            item.source.give_back(item)
        by_source: defaultdict[Source, list[Item]] = defaultdict(list)
        for item in done:
            by_source[item.source].append(item)
        for source, items in by_source.items():
            source.acknowledge(items)
        if not self.out and self._kept.is_alone:
            self._arrived.set()

    async def _release(self) -> None:
        """Return to others what was pushed while nobody here waited, and have nothing more pushed."""
        async with self.subscriptions.changing:
            if not self.waiting:
                sources = self.subscriptions.all()
                await self._let_go([one for one in sources if one.used < one.credit or one.ready or one.incoming])

    async def let_go(self, queue: str) -> None:
        """Return what waits here of a queue: somebody wants to see or delete all of it."""
        async with self.subscriptions.changing:
            await self._let_go([self.subscriptions.sources[queue]] if queue in self.subscriptions.sources else [])
        self._arrived.set()  # who waits asks for it again

    async def _let_go(self, sources: Sequence[Source], *, out_too: bool = False) -> None:
        with contextlib.suppress(BrokerError):
            await self.subscriptions.end(sources)
            if admissions := [source.admission for source in sources if source.admission is not None]:
                await asyncio.wait(admissions, timeout=_KEPT_PAUSE)
            items = [item for source in sources for item in source.ready]
            if out_too:
                items += self.out.values()
                self.out.clear()
            for source in sources:
                here = [item for item in source.ready if source.temporary is not None and not item.is_unsettled]
                source.ready.clear()
                source.ready.extend(here)  # RabbitMQ has no place for it any more
            self.end([], sorted(items, key=lambda item: item.number))
            await asyncio.gather(*(source.channel.sync() for source in sources if source.channel is not None))

    def _lost(self, source: Source) -> None:
        """Hear that a channel is gone: RabbitMQ gives what was lent over it to others."""
        for item in [item for item in self.out.values() if item.source is source]:
            del self.out[item.tag]
        source.forget()
        self._arrived.set()

    def _ended(self, why: asyncio.Future[str]) -> None:
        if not self._closed:
            log.warning("the connection to RabbitMQ that receives was lost (%s); opening another", why.result())
            if any(source.temporary is not None for source in self.subscriptions.all()):
                self.begin(self._open_again())

    async def _open_again(self) -> None:
        """Have temporary queues again, also while nobody receives: what is published is missed until then."""
        while not self._closed:
            try:
                await self.subscriptions.open()
            except BrokerError:
                await asyncio.sleep(_AGAIN)
            else:
                return

    async def close(self) -> None:
        """Return everything, and hang up."""
        self._closed = True
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        self._rest(forget=True)
        async with self.subscriptions.changing:
            await self._let_go(self.subscriptions.all(), out_too=True)
            await self.subscriptions.close()
        await self._tasks.close()


def is_untouched(retry: Retry) -> bool:
    """Tell whether a message goes back as if it had never been lent."""
    return not retry.counted and retry.after <= 0 and retry.note is None and retry.error is None and retry.budget is None
