"""Receiving: what RabbitMQ pushes is taken in, in its order, lent for as long as it is not settled, and never hoarded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from chappe.engines.contract.broker import Ack, Dead, Delivery, Refusal, Retry, Settlement
from chappe.engines.rabbitmq.admission import Admission, SendTickets
from chappe.engines.rabbitmq.control import Part
from chappe.engines.rabbitmq.endings import delays, ending_of, is_simple, is_untouched, unsayable
from chappe.engines.rabbitmq.lane import Item, Lane, Said, admitted
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.outbox import Lent, Outbox, mark_of
from chappe.engines.rabbitmq.properties import COPIES, envelope_of, ticket_in
from chappe.engines.rabbitmq.reading import Message
from chappe.engines.rabbitmq.subscribing import Hears, Subscriptions
from chappe.errors import BrokerError, BrokerUnavailable, Rejected
from chappe.messages.envelope import Publication
from chappe.messages.topology import Queue

log = logging.getLogger("chappe.rabbitmq")

_IDLE: Final = 0.03  # seconds without anybody who waits, after which what was pushed in vain goes back to others
_AGAIN: Final = 0.1  # seconds between two tries to connect; RabbitMQ refuses queues that it has not found again since its start
_STORE_PAUSE: Final = 0.5
_LATER_AT_MOST: Final = 10_000
_COUNTER: Final = (1 << 28) - 1
_numbers = itertools.count(int.from_bytes(os.urandom(3), "big"))

Open = Callable[[], Awaitable[Link]]
PublishRest = Callable[[Sequence[Publication], set[Said]], Awaitable[None]]


class Ways(NamedTuple):
    """What a consumer needs of its broker.

    `publish` publishes what is not said yet, and notes what it says; `look` has what is due looked at anew.
    `declare` makes exist again what may have gone with a connection; `type_of` names what came without a type, by its queue,
    exchange and routing key.
    """

    open_link: Open
    publish: PublishRest
    send: SendTickets
    look: Callable[[], None]
    declare: Callable[[], Awaitable[None]]
    type_of: Callable[[str, str, str], str]


class RabbitConsumer:
    """Receives from RabbitMQ over a connection of its own, and opens another when that is lost."""

    def __init__(
        self, queues: Mapping[str, int], prefetch: int, *, temporary: Sequence[Queue], outbox: Outbox, ways: Ways, patience: float
    ) -> None:
        """Prepare a consumer of these queues, each with its lanes, and of temporary ones; it connects with its first `receive`."""
        self._outbox = outbox
        self._admission = Admission(outbox, ways.send)
        self._arrived = asyncio.Event()
        open_link, self._publish, self._send, self._look, declare, self._type_of = ways
        self._subscriptions = Subscriptions(
            queues, temporary, open_link=open_link, declare=declare, hears=Hears(self._came, self._lost, self._arrived.set)
        )
        self._patience = patience
        self._prefetch = prefetch
        self.queues = list(queues)
        self._turns = list(self._subscriptions.lanes)
        self._out: dict[int, Item] = {}
        self._later: dict[Item, asyncio.TimerHandle] = {}  # what of temporary queues waits for its next attempt
        self._unsettled: dict[int, Item] = {}  # by RabbitMQ's tag, in the order in which it came
        self._asked = 0
        self._waiting = 0
        self._stops = 0
        self._has_shrunk = False  # RabbitMQ may still push as much as before
        self._idle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def on_cancel(self, told: Callable[[int], None]) -> None:
        """Tell nobody: nothing can be cancelled here yet."""

    def resize(self, prefetch: int) -> None:
        self._has_shrunk |= prefetch < self._prefetch
        self._prefetch = prefetch

    def holds(self, delivery: int) -> bool:
        return delivery in self._out

    def open_lane(self, queue: str, lanes: int) -> None:
        """Hear that a queue has more lanes than when this consumer began."""
        self._subscriptions.open_lane(queue, lanes)

    async def open(self) -> None:
        """Connect, and make the temporary queues, so that what is published from now on comes."""
        await self._subscriptions.open()

    def stop(self) -> None:
        """Have a waiting `receive` answer at once."""
        self._stops += 1
        self._arrived.set()

    # --- what others ask

    def held(self, queue: str) -> Part:
        """Tell what is here of a queue."""
        lanes = self._subscriptions.lanes.get(queue, ())
        out = sum(1 for item in self._out.values() if item.lane.queue == queue and item.lent is None)
        waiting = [item for lane in lanes for item in lane.ready]
        tickets = sum(1 for lane in lanes for item in lane.incoming if item.ticket is not None)
        plain = sum(1 for item in waiting if item.lent is None)
        return Part(out, plain + sum(len(lane.incoming) for lane in lanes) - tickets, len(waiting) - plain, tickets)

    async def admitted(self) -> None:
        """Return when nothing is on its way between RabbitMQ, the store and here, or after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STORE_PAUSE), self._subscriptions.changing:
                admissions = [lane.admission for lane in self._subscriptions.all() if lane.admission is not None]
                if admissions:
                    await asyncio.wait(admissions)

    @property
    def holding(self) -> int:
        """How many deliveries are out."""
        return len(self._out)

    def running(self, queue: str) -> list[Delivery]:
        """Show what is out of a queue."""
        return [_delivery(tag, item) for tag, item in self._out.items() if item.lane.queue == queue]

    # --- receiving

    async def receive(self, limit: int, wait: float) -> list[Delivery]:
        limit = min(limit, self._prefetch - len(self._out) - self._asked)
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
                await self._subscriptions.ask(lambda: self._asked)
            except BrokerUnavailable:
                if loop.time() >= patience:
                    raise
                await asyncio.sleep(_AGAIN)
                continue
            patience = loop.time() + self._patience
            if got := self._take(limit):
                return got
            left = deadline - loop.time()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min([left, *(lane.absent_for for lane in self._subscriptions.all() if lane.absent_for)])):
                    await self._arrived.wait()
        return []

    def _take(self, limit: int) -> list[Delivery]:
        """Give on what is here: the queues in turn, larger priorities first."""
        taken: list[Delivery] = []
        if self._closed:
            return taken
        for queue in self._turns:
            for lane in self._subscriptions.lanes[queue]:
                while lane.ready and len(taken) < limit:
                    item = lane.ready.popleft()
                    tag = mark_of(queue, item.envelope.id) << 28 | next(_numbers) & _COUNTER
                    self._out[tag] = item
                    taken.append(_delivery(tag, item))
                if lane.incoming:
                    break  # what comes before the others is being looked at
        if taken:
            self._turns.append(self._turns.pop(0))
        return taken

    def _came(self, link: Link, lane: Lane, generation: int, message: Message) -> None:
        if link is not self._subscriptions.link:
            return
        headers: Mapping[str, Any] = message.properties.headers or {}
        properties = message.properties
        fallback = "" if properties.type else self._type_of(lane.queue, message.exchange, message.routing_key)
        envelope = envelope_of(properties, message.body, fallback=fallback)
        is_ours = lane.temporary is None  # to the store a temporary queue is another program's
        item = Item(message.tag, lane, generation, envelope, ticket_in(headers) if is_ours else None, message.redelivered and is_ours)
        self._unsettled[message.tag] = item
        if generation == lane.generation:
            lane.used += 1
        if COPIES in headers and is_ours:
            self._end([item], [])
            return
        if lane.incoming or item.again or item.ticket is not None:
            lane.incoming.append(item)
            self._admit_soon(link, lane)
        else:
            lane.ready.append(item)
            self._arrived.set()
        if not self._waiting and self._idle is None:
            self._rest()

    def _admit_soon(self, link: Link, lane: Lane) -> None:
        if lane.admission is None and lane.incoming and not self._closed:
            lane.admission = self._begin(self._admit(link, lane))

    async def _admit(self, link: Link, lane: Lane) -> None:
        """Ask the store about what it knows more of: tickets, and what comes again."""
        try:
            while lane.incoming and link is self._subscriptions.live and not self._closed:
                batch = list(lane.incoming)
                try:
                    wanted = await self._admission.admit(lane, batch)
                except BrokerError as error:
                    log.warning("the store cannot be asked about what came (%s); trying again", error)
                    await asyncio.sleep(_STORE_PAUSE)
                    continue
                except Exception:  # whatever it is: what came and is never looked at would leave this consumer deaf
                    log.exception("what came cannot be looked at; trying again")
                    await asyncio.sleep(_STORE_PAUSE)
                    continue
                if link is not self._subscriptions.live:
                    await self._tell_lost([item.lent for item in batch if item.lent is not None])
                    return
                for item in batch:
                    lane.incoming.popleft()
                    if item in wanted:
                        lane.ready.append(item)
                    else:
                        self._end([item], [])
                self._arrived.set()
        finally:
            lane.admission = None
            if (now := self._subscriptions.live) is not None:
                self._admit_soon(now, lane)  # what came over another connection meanwhile

    # --- settling

    async def settle(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        if self._has_shrunk:
            await self._shrink()
        refusals: list[Refusal] = []
        plain: list[tuple[int, Item]] = []
        stored: list[tuple[Settlement, Item]] = []
        back: list[Item] = []
        seen: set[int] = set()
        link = self._subscriptions.link
        for settlement in settlements:
            tag = settlement.delivery
            item = self._out.get(tag) if tag not in seen else None
            if item is None:
                refusals.append(Refusal(tag, "stale", "this consumer does not hold the delivery, or settled it already"))
                continue
            seen.add(tag)
            if isinstance(settlement, Ack) and item.lent is None and not item.kept and not settlement.marked and not settlement.then:
                plain.append((tag, item))
                del self._out[tag]
            elif isinstance(settlement, Retry) and item.lent is None and is_untouched(settlement) and self._is_unsettled(item):
                back.append(item)
                del self._out[tag]
            elif item.lane.temporary is not None and not isinstance(settlement, Ack):
                self._settle_here(settlement, item)
                del self._out[tag]
            else:
                stored.append((settlement, item))
        self._end([item for _, item in plain], [])  # at once: a tag is of this connection only
        ended = [tag for tag, _ in plain]
        await self._return(back)
        if stored:
            refusals += await self._settle_stored(stored, ended)
        if ended:
            try:
                if link is None or link is not self._subscriptions.link:
                    raise BrokerUnavailable("the connection was lost meanwhile")
                await link.sync()
            except BrokerUnavailable as error:
                refusals += [Refusal(tag, "stale", f"{error}; the message may come again") for tag in ended]
        return refusals

    async def _shrink(self) -> None:
        """Have nothing pushed into room that there is no more: what has to go back may lose its place to what is asked for right after."""
        self._has_shrunk = False
        async with self._subscriptions.changing:
            if (link := self._subscriptions.live) is not None:
                with contextlib.suppress(BrokerError):
                    await self._subscriptions.end(link, [lane for lane in self._subscriptions.all() if lane.credit > self._prefetch])

    def _is_unsettled(self, item: Item) -> bool:
        """Tell whether RabbitMQ has lent it, and heard nothing of it yet."""
        return self._unsettled.get(item.tag) is item

    def _settle_here(self, settlement: Retry | Dead, item: Item) -> None:
        """Keep what came through a temporary queue for its next attempt, or drop it: nothing of such a queue is kept elsewhere."""
        self._end([item], [])
        if isinstance(settlement, Dead):
            log.error(
                '%s %s is dropped (%s): a temporary queue like "%s" has no dead letters',
                item.envelope.type, item.envelope.id, settlement.reason, item.lane.queue,
            )  # fmt: skip
            return
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
        ready = item.lane.ready
        ready.insert(next((place for place, other in enumerate(ready) if other.tag > item.tag), len(ready)), item)
        self._arrived.set()

    async def _settle_stored(self, stored: Sequence[tuple[Settlement, Item]], acked: list[int]) -> list[Refusal]:
        """Settle what the store has a part in, or what publishes something; `acked` gets those that only RabbitMQ has to forget."""
        refusals: list[Refusal] = []
        simple = [(settlement, item) for settlement, item in stored if isinstance(settlement, Ack) and is_simple(settlement, item)]
        outcomes = await asyncio.gather(*(self._publish(ack.then, item.noted()) for ack, item in simple), return_exceptions=True)
        unsure: list[BaseException] = []
        done: list[Item] = []
        for (ack, item), outcome in zip(simple, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                refusals.append(Refusal(ack.delivery, "unroutable", str(outcome)))
            elif isinstance(outcome, BaseException):
                unsure.append(outcome)
            elif self._out.pop(ack.delivery, None) is not None:
                done.append(item)
                acked.append(ack.delivery)
            else:
                refusals.append(Refusal(ack.delivery, "stale", "the delivery was lost while its messages were published"))
        self._end(done, [])
        others = [(settlement, item) for settlement, item in stored if not isinstance(settlement, Ack) or not is_simple(settlement, item)]
        if others:
            refusals += await self._settle_in_store(others)
        if unsure:
            raise unsure[0]  # what ended meanwhile is refused as stale when it is said again
        return refusals

    async def _settle_in_store(self, others: Sequence[tuple[Settlement, Item]]) -> list[Refusal]:
        refusals = [Refusal(settlement.delivery, "unroutable", why) for settlement, _ in others if (why := unsayable(settlement))]
        unsaid = {refusal.delivery for refusal in refusals}
        others = [(settlement, item) for settlement, item in others if settlement.delivery not in unsaid]
        if not others:
            return refusals
        ended, tickets = await self._outbox.settle([ending_of(settlement, item) for settlement, item in others])
        done: list[Item] = []
        back: list[Item] = []
        for (settlement, item), end in zip(others, ended, strict=True):
            if end.why in ("unroutable", "pending"):
                refusals.append(Refusal(settlement.delivery, end.why, end.text, end.receipts))
                continue
            if end.why:
                refusals.append(Refusal(settlement.delivery, end.why, end.text))
            if self._out.pop(settlement.delivery, None) is not None:
                (back if end.back or end.why else done).append(item)  # in vain: whoever gets the ticket throws it away
        self._end(done, [])
        try:
            await self._return(back)
        finally:
            await self._send(tickets)
            if any(delays(settlement) for settlement, _ in others):
                self._look()
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
                    del self._unsettled[item.tag]
                    item.lane.ended(item)
                    link.nack(item.tag)
            left = {item.tag: item for item in done if self._is_unsettled(item)}
            upto = 0
            for tag in list(itertools.takewhile(left.__contains__, self._unsettled)):
                item = self._unsettled.pop(tag)
                item.lane.ended(item)
                del left[tag]
                upto = tag
            if upto:
                link.ack(upto, multiple=True)
            for tag, item in left.items():
                del self._unsettled[tag]
                item.lane.ended(item)
                link.ack(tag)

    # --- giving back

    async def _release(self) -> None:
        """Return to others what was pushed while nobody here waited, and have nothing more pushed."""
        async with self._subscriptions.changing:
            if not self._waiting:
                await self._let_go([lane for lane in self._subscriptions.all() if lane.used < lane.credit or lane.ready or lane.incoming])

    async def let_go(self, queue: str) -> None:
        """Return what waits here of a queue: somebody wants to see or delete all of it."""
        async with self._subscriptions.changing:
            await self._let_go(self._subscriptions.lanes.get(queue, []))
        self._arrived.set()  # who waits asks for it again

    async def _let_go(self, lanes: Sequence[Lane], *, out_too: bool = False) -> None:
        link = self._subscriptions.live
        if link is None:
            return
        with contextlib.suppress(BrokerError):
            await self._subscriptions.end(link, lanes)
            await admitted(lanes)
            items = [item for lane in lanes for item in lane.ready]
            if out_too:
                items += self._out.values()
                self._out.clear()
            for lane in lanes:
                here = [item for item in lane.ready if lane.temporary is not None and not self._is_unsettled(item)]
                lane.ready.clear()
                lane.ready.extend(here)  # RabbitMQ has no place for it any more
            await self._give_back(items)
            await link.sync()

    async def _give_back(self, items: Sequence[Item]) -> None:
        items = sorted(items, key=lambda item: item.tag)
        lent = [item for item in items if item.lent is not None]
        if lent:
            try:
                await self._outbox.settle([ending_of(Retry(0, 0.0, counted=False), item) for item in lent])
            except BrokerError as error:
                log.warning("the store does not hear what is given back (%s); hanging up, so that RabbitMQ gives it to others", error)
                self.cut()
        self._end([], items)

    def _lost(self, link: Link) -> None:
        """Hear that the connection is gone: RabbitMQ gives what was lent over it to others."""
        if link is not self._subscriptions.link:
            return
        gone = [*self._out.values(), *(item for lane in self._subscriptions.all() for item in lane.ready)]
        lent = [item.lent for item in gone if item.lent is not None]
        self._out.clear()
        self._unsettled.clear()
        for lane in self._subscriptions.all():
            lane.forget()
        self._arrived.set()
        if not self._closed:
            log.warning("the connection to RabbitMQ that receives was lost (%s); opening another", link.ended.result())
            if any(lane.temporary is not None for lane in self._subscriptions.all()):
                self._begin(self._open_again())
        if lent:
            self._begin(self._tell_lost(lent))

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

    async def _tell_lost(self, lent: Sequence[Lent]) -> None:
        with contextlib.suppress(BrokerError):  # who gets the tickets takes the copies over in any case
            await self._outbox.lose(lent)

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


def _delivery(tag: int, item: Item) -> Delivery:
    return Delivery(tag, item.lane.queue, item.attempt, item.envelope, item.note)
