"""Receiving: what RabbitMQ pushes and what is kept beside it, larger priorities first, lent for as long as it is not settled."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from chappe.engines.contract.broker import Ack, Dead, Delivery, Refusal, Retry, Settlement
from chappe.engines.rabbitmq.control import Part
from chappe.engines.rabbitmq.kept import KeptConsumer, is_kept, is_stray, tag_of
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.properties import COPIES, envelope_of
from chappe.engines.rabbitmq.pushed import Item, Said, Source
from chappe.engines.rabbitmq.reading import Message
from chappe.engines.rabbitmq.subscribing import Hears, Subscriptions
from chappe.errors import BrokerError, BrokerUnavailable, Rejected
from chappe.messages.envelope import Publication
from chappe.messages.topology import Queue

log = logging.getLogger("chappe.rabbitmq")

_IDLE: Final = 0.03  # seconds without anybody who waits, after which what was pushed in vain goes back to others
_AGAIN: Final = 0.1  # seconds between two tries to connect; RabbitMQ refuses queues that it has not found again since its start
_KEPT_PAUSE: Final = 0.5
_LOOK: Final = 1.0  # seconds after which somebody who waits looks by himself at what is kept
_LATER_AT_MOST: Final = 10_000
_NORMAL, _URGENT = 0, -1  # ranks: minus the smallest priority that is meant

PublishRest = Callable[[Sequence[Publication], set[Said]], Awaitable[None]]


class Ways(NamedTuple):
    """What a consumer needs of its broker.

    `publish` publishes what is not said yet, and notes what it says. `declare` makes exist again what may have gone with a connection;
    `type_of` names what came without a type, by its queue, exchange and routing key.
    """

    open_link: Callable[[], Awaitable[Link]]
    publish: PublishRest
    declare: Callable[[], Awaitable[None]]
    type_of: Callable[[str, str, str], str]


class RabbitConsumer:
    """Receives from RabbitMQ over a connection of its own, which it opens again when that is lost, and what is kept of the same queues."""

    def __init__(
        self, queues: Sequence[str], prefetch: int, *, temporary: Sequence[Queue], kept: KeptConsumer, ways: Ways, patience: float
    ) -> None:
        """Prepare a consumer of these queues, and of temporary ones; it connects with its first `receive`."""
        self._arrived = asyncio.Event()
        open_link, self._publish, declare, self._type_of = ways
        self._subscriptions = Subscriptions(
            queues, temporary, open_link=open_link, declare=declare, hears=Hears(self._came, self._lost, self._arrived.set)
        )
        self._kept = kept
        self._kept.elsewhere = lambda: len(self._out)
        self._kept.on_ready = self._told
        self._may_be_kept = True  # whether there may be something that is ready
        self._kept_first = False
        self._cancelled: Callable[[int], None] = lambda _: None
        self._looks_at = 0.0
        self._patience = patience
        self._prefetch = prefetch
        self.queues = list(queues)
        self._turns = list(self._subscriptions.sources)
        self._out: dict[int, Item] = {}
        self._later: dict[Item, asyncio.TimerHandle] = {}  # what of temporary queues waits for its next attempt
        self._unsettled: dict[int, Item] = {}  # by RabbitMQ's number, in the order in which it came
        self._asked = 0
        self._waiting = 0
        self._stops = 0
        self._has_shrunk = False  # RabbitMQ may still push as much as before
        self._idle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def on_cancel(self, told: Callable[[int], None]) -> None:
        self._cancelled = told
        self._kept.on_cancel(told)

    def cancel(self, message_id: str) -> bool:
        """Tell of a message of RabbitMQ that is out that somebody cancels it, and whether there was one."""
        found = [item for item in self._out.values() if item.envelope.id == message_id]
        for item in found:
            if not item.is_cancelled:
                item.is_cancelled = True
                self._cancelled(item.tag)
        return bool(found)

    def resize(self, prefetch: int) -> None:
        self._has_shrunk |= prefetch < self._prefetch
        self._prefetch = prefetch

    def holds(self, delivery: int) -> bool:
        return delivery in self._out if is_stray(delivery) else self._kept.holds(delivery)

    async def open(self) -> None:
        """Connect, and make the temporary queues, so that what is published from now on comes."""
        await self._subscriptions.open()

    def stop(self) -> None:
        """Have a waiting `receive` answer at once."""
        self._stops += 1
        self._arrived.set()

    # --- what others ask

    def held(self, queue: str) -> Part:
        """Tell what is here of a queue of RabbitMQ's."""
        out = sum(1 for item in self._out.values() if item.source.queue == queue)
        source = self._subscriptions.sources.get(queue)
        if source is None:
            return Part(out)
        return Part(out, sum(1 for one in source.ready if isinstance(one, Item)) + len(source.incoming))

    async def admitted(self) -> None:
        """Return when nothing is on its way between RabbitMQ and what is kept, or after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEPT_PAUSE), self._subscriptions.changing:
                admissions = [source.admission for source in self._subscriptions.all() if source.admission is not None]
                if admissions:
                    await asyncio.wait(admissions)

    def queue_of(self, tag: int) -> str | None:
        """Return the queue of a delivery of RabbitMQ that is out, but for temporary ones."""
        item = self._out.get(tag)
        return None if item is None else item.queue

    @property
    def holding(self) -> int:
        """How many deliveries of RabbitMQ are out."""
        return len(self._out)

    # --- receiving

    async def receive(self, limit: int, wait: float) -> list[Delivery]:
        limit = min(limit, self._room() - self._asked)
        if limit <= 0 or self._closed:
            return []
        self._asked += limit
        self._waiting += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            return await self._receive(limit, asyncio.get_running_loop().time() + wait)
        finally:
            self._asked -= limit
            self._waiting -= 1
            self._rest()

    def _room(self) -> int:
        here = sum(1 for source in self._subscriptions.all() for one in source.ready if isinstance(one, Delivery))
        return self._prefetch - len(self._out) - len(self._kept.held()) + here  # those are not lent on yet

    def _rest(self) -> None:
        """Return soon what comes while nobody waits."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._waiting and not self._closed:
            self._idle = asyncio.get_running_loop().call_later(_IDLE, self._rested)

    def _rested(self) -> None:
        self._idle = None
        self._begin(self._release())

    async def _receive(self, limit: int, deadline: float) -> list[Delivery]:
        loop, stops = asyncio.get_running_loop(), self._stops
        patience = loop.time() + self._patience
        while not self._closed and stops == self._stops:
            self._arrived.clear()
            try:
                await self._look()
                await self._subscriptions.ask(lambda: self._asked)
                got = await self._take(limit)
            except BrokerUnavailable:
                if loop.time() >= patience:
                    raise
                await asyncio.sleep(_AGAIN)
                continue
            patience = loop.time() + self._patience
            if got:
                return got
            left = deadline - loop.time()
            if left <= 0:
                break
            if self._subscriptions.queues:
                await self._kept.attend()
                left = min(left, max(0.0, self._looks_at - loop.time()))
            away = [source.absent_for for source in self._subscriptions.all() if source.absent_for]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min([left, *away])):
                    await self._arrived.wait()
        return []

    def _told(self) -> None:
        self._looks_at = 0.0
        self._arrived.set()

    async def _look(self) -> None:
        """Look at what is kept and which queues are paused, if somebody told that there is something new, or after a while."""
        now = asyncio.get_running_loop().time()
        if now < self._looks_at or not self._subscriptions.queues:
            return
        self._may_be_kept, self._looks_at = True, now + _LOOK
        paused = await self._kept.paused()
        begun, self._subscriptions.paused = paused - self._subscriptions.paused, paused
        for queue in begun:
            await self.let_go(queue)

    async def _take(self, limit: int) -> list[Delivery]:
        """Lend on what is here and what is kept: larger priorities first, and of the usual one both in turn."""
        if not self._subscriptions.queues or not (self._may_be_kept or self._kept.is_alone):
            return self._take_pushed(limit)
        taken: list[Delivery] = []
        try:
            await self._take_both(taken, limit)
        except BaseException:
            self._begin(self._give_back(taken))
            raise
        return taken

    async def _take_both(self, taken: list[Delivery], limit: int) -> None:
        first = _NORMAL if self._kept_first else _URGENT
        self._kept_first = not self._kept_first
        taken += await self._claim(limit, first)
        if self._kept.is_alone:
            await self._make_room()
            return
        taken += self._take_pushed(limit - len(taken))
        if len(taken) < limit and first == _URGENT:
            taken += await self._claim(limit - len(taken), _NORMAL)
        if not taken:  # what has a smaller priority comes after all that is pushed
            await self._subscriptions.came()
            taken += self._take_pushed(limit) or await self._claim(limit, None)

    async def _make_room(self) -> None:
        """Return to others what waits here while something runs alone."""
        if sources := [source for source in self._subscriptions.all() if source.ready]:
            async with self._subscriptions.changing:
                await self._let_go(sources)
            self._told()

    async def _give_back(self, taken: Sequence[Delivery]) -> None:
        """Return what came for a `receive` that nobody waits for any more."""
        with contextlib.suppress(BrokerError):
            await self.settle([Retry(delivery.tag, 0.0, counted=False) for delivery in taken])

    async def _claim(self, room: int, most: int | None) -> list[Delivery]:
        if most is not None:
            return await self._kept.claim(room, most)
        self._may_be_kept = False
        found = await self._kept.claim(room)
        self._may_be_kept |= bool(found)
        return found

    def _take_pushed(self, limit: int) -> list[Delivery]:
        """Lend on what came, the queues in turn."""
        taken: list[Delivery] = []
        if self._closed or self._kept.is_alone:
            return taken
        for queue in self._turns:
            source = self._subscriptions.sources[queue]
            while source.ready and len(taken) < limit:
                one = source.ready.popleft()
                if isinstance(one, Item):
                    self._out[one.tag] = one
                    one = one.delivery()
                taken.append(one)
        if taken:
            self._turns.append(self._turns.pop(0))
        return taken

    def _came(self, link: Link, source: Source, generation: int, message: Message) -> None:
        if link is not self._subscriptions.link:
            return
        headers: Mapping[str, Any] = message.properties.headers or {}
        properties = message.properties
        fallback = "" if properties.type else self._type_of(source.queue, message.exchange, message.routing_key)
        envelope = envelope_of(properties, message.body, fallback=fallback)
        is_ours = source.temporary is None  # what is relayed is kept for our queues, and for no temporary one
        tag = tag_of(source.queue, envelope.id)
        item = Item(message.tag, source, generation, envelope, tag, message.redelivered and is_ours)
        self._unsettled[message.tag] = item
        if generation == source.generation:
            source.used += 1
        if COPIES in headers and is_ours:
            self._end([item], [])
            return
        if source.incoming or item.again:
            source.incoming.append(item)
            self._admit_soon(source)
        else:
            source.ready.append(item)
            self._arrived.set()
        if not self._waiting and self._idle is None:
            self._rest()

    def _admit_soon(self, source: Source) -> None:
        if source.admission is None and source.incoming and not self._closed:
            source.admission = self._begin(self._admit(source))

    async def _admit(self, source: Source) -> None:
        """Have what comes again be kept elsewhere, so that RabbitMQ need not remember anything of it."""
        try:
            while (link := self._subscriptions.live) is not None and source.incoming and not self._closed:
                batch = list(source.incoming)
                again = [item for item in batch if item.again]
                try:
                    lent = await self._kept.adopt(again) if again else {}
                except BrokerError as error:
                    log.warning("what came again cannot be kept (%s); trying again", error)
                    await asyncio.sleep(_KEPT_PAUSE)
                    continue
                except Exception:  # whatever it is: what came and is never looked at would leave this consumer deaf
                    log.exception("what came again cannot be kept; trying again")
                    await asyncio.sleep(_KEPT_PAUSE)
                    continue
                if link is not self._subscriptions.live:  # RabbitMQ lends it once more, to somebody
                    await self._kept.settle([Retry(delivery.tag, 0.0, counted=False) for delivery in lent.values()])
                    return
                for item in batch:
                    source.incoming.popleft()
                    if not item.again:
                        source.ready.append(item)
                    elif (delivery := lent.get(item.tag)) is not None:
                        source.ready.append(delivery)
                self._end(again, [])
                self._told()
        finally:
            source.admission = None
            self._admit_soon(source)  # what came over another connection meanwhile

    # --- settling

    async def settle(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        if self._has_shrunk:
            await self._shrink()
        kept = [settlement for settlement in settlements if not is_stray(settlement.delivery)]
        refusals = await self._kept.settle(kept) if kept else []
        if len(kept) < len(settlements):
            refusals += await self._settle_pushed([settlement for settlement in settlements if is_stray(settlement.delivery)])
        elif not self._out:
            self._arrived.set()  # what runs alone may begin
        return refusals

    async def _settle_pushed(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        refusals: list[Refusal] = []
        by_way: dict[str, list[tuple[Settlement, Item]]] = {way: [] for way in ("done", "back", "here", "publish", "move")}
        seen: set[int] = set()
        link = self._subscriptions.link
        for settlement in settlements:
            tag = settlement.delivery
            item = self._out.get(tag) if tag not in seen else None
            seen.add(tag)
            if item is None:
                refusals.append(Refusal(tag, "stale", "this consumer does not hold the delivery, or settled it already"))
                continue
            way = self._way_of(settlement, item)
            by_way[way].append((settlement, item))
            if way in ("done", "back", "here"):
                del self._out[tag]
        done, back = [item for _, item in by_way["done"]], [item for _, item in by_way["back"]]
        self._end(done, [])  # at once: a number is of this connection only
        for settlement, item in by_way["here"]:
            self._settle_here(settlement, item)
        await self._return(back)
        ended = [item.tag for item in done]
        unsure: list[BaseException] = []
        if by_way["publish"]:
            refusals += await self._settle_publishing(by_way["publish"], ended, unsure)
        if by_way["move"]:
            refusals += await self._settle_moving(by_way["move"])
        if ended:
            try:
                if link is None or link is not self._subscriptions.link:
                    raise BrokerUnavailable("the connection was lost meanwhile")
                await link.sync()
            except BrokerUnavailable as error:
                refusals += [Refusal(tag, "stale", f"{error}; the message may come again") for tag in ended]
        if unsure:
            raise unsure[0]  # what ended meanwhile is refused as stale when it is said again
        return refusals

    def _way_of(self, settlement: Settlement, item: Item) -> str:
        """Tell how a message ends: RabbitMQ forgets it or has it back, maybe after something was published, or it was moved."""
        if isinstance(settlement, Ack):
            if settlement.marked or any(is_kept(p) for p in settlement.then):
                return "move"
            return "publish" if settlement.then else "done"
        if isinstance(settlement, Retry) and _is_untouched(settlement) and self._is_unsettled(item):
            return "back"
        return "move" if item.source.temporary is None else "here"

    async def _shrink(self) -> None:
        """Have nothing pushed into room that there is no more: what has to go back may lose its place to what is asked for right after."""
        self._has_shrunk = False
        async with self._subscriptions.changing:
            if (link := self._subscriptions.live) is not None:
                with contextlib.suppress(BrokerError):
                    await self._subscriptions.end(link, [one for one in self._subscriptions.all() if one.credit > self._prefetch])

    def _is_unsettled(self, item: Item) -> bool:
        """Tell whether RabbitMQ has lent it, and heard nothing of it yet."""
        return self._unsettled.get(item.number) is item

    def _settle_here(self, settlement: Settlement, item: Item) -> None:
        """Keep what came through a temporary queue for its next attempt, or drop it: nothing of such a queue is kept elsewhere."""
        self._end([item], [])
        if isinstance(settlement, Dead):
            log.error(
                '%s %s is dropped (%s): a temporary queue like "%s" has no dead letters',
                item.envelope.type, item.envelope.id, settlement.reason, item.source.queue,
            )  # fmt: skip
            return
        assert isinstance(settlement, Retry)
        if not _is_untouched(settlement):
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
        later = (place for place, other in enumerate(ready) if isinstance(other, Item) and other.number > item.number)
        ready.insert(next(later, len(ready)), item)
        self._arrived.set()

    async def _settle_publishing(
        self, publishing: Sequence[tuple[Settlement, Item]], ended: list[int], unsure: list[BaseException]
    ) -> list[Refusal]:
        """Publish what RabbitMQ takes, and only then have it forget; `ended` gets those tags, `unsure` what nobody knows the outcome of."""
        refusals: list[Refusal] = []
        done: list[Item] = []
        outcomes = await asyncio.gather(
            *(self._publish(ack.then, item.noted()) for ack, item in publishing if isinstance(ack, Ack)), return_exceptions=True
        )
        for (ack, item), outcome in zip(publishing, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                refusals.append(Refusal(ack.delivery, "unroutable", str(outcome)))
            elif isinstance(outcome, BaseException):
                unsure.append(outcome)
            elif self._out.pop(ack.delivery, None) is not None:
                done.append(item)
                ended.append(ack.delivery)
            else:
                refusals.append(Refusal(ack.delivery, "stale", "the delivery was lost while its messages were published"))
        self._end(done, [])
        return refusals

    async def _settle_moving(self, moving: Sequence[tuple[Settlement, Item]]) -> list[Refusal]:
        """Have them end where things are kept, and only then have RabbitMQ forget."""
        refusals = await self._kept.settle_strays([settlement for settlement, _ in moving], [item for _, item in moving])
        refused = {refusal.delivery for refusal in refusals}
        self._end([item for _, item in moving if item.tag not in refused and self._out.pop(item.tag, None) is not None], [])
        return refusals

    async def _return(self, back: Sequence[Item]) -> None:
        """Return messages back to their places; if nobody waits here they must not come here again, only to lose their places later."""
        try:
            if back and not self._waiting:
                await self._release()
        finally:
            self._end([], back)

    def _end(self, done: Sequence[Item], back: Sequence[Item]) -> None:
        """Tell RabbitMQ what is done and what goes back to its place; as little as possible has to be said."""
        link = self._subscriptions.live
        if link is None:
            return
        with contextlib.suppress(BrokerUnavailable):  # it ended meanwhile, and RabbitMQ has everything back
            for item in back:
                if self._is_unsettled(item):
                    del self._unsettled[item.number]
                    item.source.ended(item)
                    link.nack(item.number)
            left = {item.number: item for item in done if self._is_unsettled(item)}
            upto = 0
            for number in list(itertools.takewhile(left.__contains__, self._unsettled)):
                item = self._unsettled.pop(number)
                item.source.ended(item)
                del left[number]
                upto = number
            if upto:
                link.ack(upto, multiple=True)
            for number, item in left.items():
                del self._unsettled[number]
                item.source.ended(item)
                link.ack(number)
        if not self._out and self._kept.is_alone:
            self._arrived.set()

    # --- giving back

    async def _release(self) -> None:
        """Return to others what was pushed while nobody here waited, and have nothing more pushed."""
        async with self._subscriptions.changing:
            if not self._waiting:
                sources = self._subscriptions.all()
                await self._let_go([one for one in sources if one.used < one.credit or one.ready or one.incoming])

    async def let_go(self, queue: str) -> None:
        """Return what waits here of a queue: somebody wants to see or delete all of it."""
        async with self._subscriptions.changing:
            await self._let_go([self._subscriptions.sources[queue]] if queue in self._subscriptions.sources else [])
        self._arrived.set()  # who waits asks for it again

    async def _let_go(self, sources: Sequence[Source], *, out_too: bool = False) -> None:
        link = self._subscriptions.live
        with contextlib.suppress(BrokerError):
            if link is not None:
                await self._subscriptions.end(link, sources)
            if admissions := [source.admission for source in sources if source.admission is not None]:
                await asyncio.wait(admissions, timeout=_KEPT_PAUSE)
            items = [one for source in sources for one in source.ready if isinstance(one, Item)]
            kept = [one for source in sources for one in source.ready if isinstance(one, Delivery)]
            if out_too:
                items += self._out.values()
                self._out.clear()
            for source in sources:
                here = [one for one in source.ready if source.temporary is not None and not self._is_unsettled_here(one)]
                source.ready.clear()
                source.ready.extend(here)  # RabbitMQ has no place for it any more
            self._end([], sorted(items, key=lambda item: item.number))
            if kept:
                await self._kept.settle([Retry(delivery.tag, 0.0, counted=False) for delivery in kept])
            if link is not None:
                await link.sync()

    def _is_unsettled_here(self, one: Item | Delivery) -> bool:
        return isinstance(one, Item) and self._is_unsettled(one)

    def _lost(self, link: Link) -> None:
        """Hear that the connection is gone: RabbitMQ gives what was lent over it to others."""
        if link is not self._subscriptions.link:
            return
        self._out.clear()
        self._unsettled.clear()
        for source in self._subscriptions.all():
            source.forget()
        self._arrived.set()
        if not self._closed:
            log.warning("the connection to RabbitMQ that receives was lost (%s); opening another", link.ended.result())
            if any(source.temporary is not None for source in self._subscriptions.all()):
                self._begin(self._open_again())

    async def _open_again(self) -> None:
        """Have temporary queues again, also while nobody receives: what is published is missed until then."""
        while not self._closed:
            try:
                await self._subscriptions.open()
            except BrokerError:
                await asyncio.sleep(_AGAIN)
            else:
                return

    async def bind_again(self) -> None:
        """Bind the temporary queues to exchanges that may have gone and come back."""
        with contextlib.suppress(BrokerUnavailable):
            await self._subscriptions.bind_again()

    async def close(self) -> None:
        """Return what is out, at once and without counting an attempt."""
        self._closed = True
        self.stop()
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        if self._idle is not None:
            self._idle.cancel()
        async with self._subscriptions.changing:
            await self._let_go(self._subscriptions.all(), out_too=True)
            await self._subscriptions.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Lose the connection, as if the network had failed."""
        self._subscriptions.cut()

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("receiving from RabbitMQ failed: %r", error, exc_info=error)


def _is_untouched(retry: Retry) -> bool:
    """Tell whether a message goes back as if it had never been lent."""
    return not retry.counted and retry.after <= 0 and retry.note is None and retry.error is None and retry.budget is None
