"""Receiving: what RabbitMQ pushes is taken in, in its order, lent for as long as it is not settled, and never hoarded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from noria.bounds import DEATHS_ALLOWED
from noria.brokers.contract import Ack, Dead, Delivery, Refusal, Retry, Settlement
from noria.brokers.rabbitmq.control import Part
from noria.brokers.rabbitmq.lane import Item, Lane, credit_for
from noria.brokers.rabbitmq.lanes import QUORUM, lanes_of
from noria.brokers.rabbitmq.link import Link
from noria.brokers.rabbitmq.properties import COPIES, envelope_of, ticket_in
from noria.brokers.rabbitmq.reading import Message
from noria.errors import BrokerError, BrokerUnavailable, NotFound, Rejected
from noria.messages.envelope import Publication, Receipt
from noria.messages.outbox import Ending, Lent, Outbox, Presented, Ticket, mark_of

log = logging.getLogger("noria.rabbitmq")

_IDLE: Final = 0.03  # seconds without anybody who waits, after which what was pushed in vain goes back to others
_AGAIN: Final = 0.1  # seconds between two tries to connect; RabbitMQ refuses queues that it has not found again since its start
_STORE_PAUSE: Final = 0.5
_SOONEST, _LATEST = 0.1, 3.0  # seconds between two looks for a queue that is gone, while the others are served
_ADMITTED: Final = 1.0  # seconds at most that others wait for the store
_FEW: Final = 4
_COUNTER: Final = (1 << 28) - 1
_numbers = itertools.count(int.from_bytes(os.urandom(3), "big"))

Open = Callable[[], Awaitable[Link]]
PublishAll = Callable[[Sequence[Publication]], Awaitable[list[Receipt]]]
SendTickets = Callable[[Sequence[Ticket]], Awaitable[None]]


class Ways(NamedTuple):
    """What a consumer needs of its broker.

    `look` has what is due looked at anew.
    `declare` makes exist again what may have gone with a connection; `type_of` names what came without a type, by its queue,
    exchange and routing key.
    """

    open_link: Open
    publish: PublishAll
    send: SendTickets
    look: Callable[[], None]
    declare: Callable[[], Awaitable[None]]
    type_of: Callable[[str, str, str], str]


class RabbitConsumer:
    """Receives from RabbitMQ over a connection of its own, and opens another when that is lost."""

    def __init__(self, queues: dict[str, int], prefetch: int, *, outbox: Outbox, ways: Ways, patience: float) -> None:
        """Prepare a consumer of these queues, each with its lanes; it connects with its first `receive`."""
        self._outbox = outbox
        self._open_link, self._publish, self._send, self._look, self._declare, self._type_of = ways
        self._patience = patience
        self._prefetch = prefetch
        self._lanes: dict[str, list[Lane]] = {q: [Lane(q, *lane) for lane in lanes_of(q, lanes).items()] for q, lanes in queues.items()}
        self.queues = list(queues)
        self._turn = 0
        self._link: Link | None = None
        self._changing = asyncio.Lock()
        self._out: dict[int, Item] = {}
        self._unsettled: dict[int, Item] = {}  # by RabbitMQ's tag, in the order in which it came
        self._asked = 0
        self._waiting = 0
        self._stops = 0
        self._arrived = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def resize(self, prefetch: int) -> None:
        self._prefetch = prefetch

    def holds(self, delivery: int) -> bool:
        return delivery in self._out

    def open_lane(self, queue: str, lanes: int) -> None:
        """Hear that a queue has more lanes than when this consumer began."""
        known = self._lanes.get(queue)
        if known is not None and len(known) < len(names := lanes_of(queue, lanes)):
            by_name = {lane.name: lane for lane in known}
            self._lanes[queue] = [by_name.get(name) or Lane(queue, name, sign) for name, sign in names.items()]
            self._arrived.set()

    def stop(self) -> None:
        """Have a waiting `receive` answer at once."""
        self._stops += 1
        self._arrived.set()

    # --- what others ask

    def held(self, queue: str) -> Part:
        """Tell what is here of a queue."""
        lanes = self._lanes.get(queue, ())
        out = sum(1 for item in self._out.values() if item.lane.queue == queue and item.lent is None)
        waiting = [item for lane in lanes for item in lane.ready]
        tickets = sum(1 for lane in lanes for item in lane.incoming if item.ticket is not None)
        plain = sum(1 for item in waiting if item.lent is None)
        return Part(out, plain + sum(len(lane.incoming) for lane in lanes) - tickets, len(waiting) - plain, tickets)

    async def admitted(self) -> None:
        """Return when nothing is on its way between RabbitMQ, the store and here, or after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STORE_PAUSE), self._changing:
                admissions = [lane.admission for lane in self._all() if lane.admission is not None]
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
        """Give back soon what comes while nobody waits."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._waiting and not self._closed:
            self._idle = asyncio.get_running_loop().call_later(_IDLE, lambda: self._begin(self._release()))

    async def _receive(self, limit: int, deadline: float) -> list[Delivery]:
        loop, stops = asyncio.get_running_loop(), self._stops
        patience = loop.time() + self._patience
        while not self._closed and stops == self._stops:
            self._arrived.clear()
            try:
                await self._subscribe()
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
                async with asyncio.timeout(min([left, *(lane.absent_for for lane in self._all() if lane.absent_for)])):
                    await self._arrived.wait()
        return []

    def _take(self, limit: int) -> list[Delivery]:
        """Give on what is here: the queues in turn, larger priorities first."""
        taken: list[Delivery] = []
        if self._closed:
            return taken
        for queue in (*self.queues[self._turn :], *self.queues[: self._turn]):
            for lane in self._lanes[queue]:
                while lane.ready and len(taken) < limit:
                    item = lane.ready.popleft()
                    tag = mark_of(queue, item.envelope.id) << 28 | next(_numbers) & _COUNTER
                    self._out[tag] = item
                    taken.append(_delivery(tag, item))
                if lane.incoming:
                    break  # what comes before the others is being looked at
        if taken:
            self._turn = (self._turn + 1) % len(self.queues)
        return taken

    async def _subscribe(self) -> None:
        """Have RabbitMQ push what is asked for. Raises `BrokerUnavailable`, or `NotFound` for a queue that is gone."""
        link = self._link
        if link is not None and not link.ended.done() and not self._short():
            return
        async with self._changing:
            link = await self._linked()
            short = self._short()
            missing: NotFound | None = None
            for lane in short:
                try:
                    await self._resubscribe(link, lane)
                except NotFound as error:
                    missing = error
                    self._miss(lane, error)
                else:
                    lane.absent_for = 0.0
            lanes = [lane for lane in self._all() if lane.subscription is not None]
            if not lanes and missing is not None:
                raise missing
            if short and len(lanes) > 1:  # what is there must have come before anything is chosen
                for lane in lanes:
                    await link.queue(lane.name, passive=True)
                await link.sync()
                await _admitted(lanes)

    def _short(self) -> list[Lane]:
        now, share = asyncio.get_running_loop().time(), self._share()
        return [lane for lane in self._all() if lane.is_short(share) and not lane.is_away(now)]

    def _miss(self, lane: Lane, error: NotFound) -> None:
        """Look for a queue later, and say so if it takes long: after its start RabbitMQ needs a moment to find its queues."""
        lane.looked_at = asyncio.get_running_loop().time()
        if lane.absent_for < 1.0 <= 2 * lane.absent_for:
            log.error('there is no queue "%s" (%s): it is looked for again, and the others are served', lane.name, error)
        lane.absent_for = min(_LATEST, max(_SOONEST, 2 * lane.absent_for))

    def _all(self) -> list[Lane]:
        return [lane for lanes in self._lanes.values() for lane in lanes]

    def _share(self) -> int:
        """Give how much of what is asked for each queue should have on its way: with many queues, each has a part of it."""
        return self._asked if len(self.queues) <= _FEW else max(1, _FEW * self._asked // len(self.queues))

    async def _resubscribe(self, link: Link, lane: Lane) -> None:
        if lane.subscription is not None:
            tag, lane.subscription = lane.subscription, None
            await link.cancel(tag)
        credit = credit_for(self._share())
        generation = lane.begin(credit)
        if lane.sign:
            await link.queue(lane.name, arguments=QUORUM)
        lane.subscription = await link.consume(
            lane.name,
            lambda message: self._came(link, lane, generation, message),
            prefetch=credit,
            on_cancelled=lambda: self._cancelled(lane, generation),
        )

    async def _linked(self) -> Link:
        if self._link is None or self._link.ended.done():
            if self._link is not None:
                await self._declare()
            link = await self._open_link()
            self._link = link
            link.ended.add_done_callback(lambda _: self._lost(link))
        return self._link

    def _cancelled(self, lane: Lane, generation: int) -> None:
        if lane.generation == generation:
            log.error('RabbitMQ ended the consumer of "%s": was the queue deleted?', lane.name)
            lane.subscription = None
            self._arrived.set()

    def _came(self, link: Link, lane: Lane, generation: int, message: Message) -> None:
        if link is not self._link:
            return
        headers: Mapping[str, Any] = message.properties.headers or {}
        properties = message.properties
        fallback = "" if properties.type else self._type_of(lane.queue, message.exchange, message.routing_key)
        envelope = envelope_of(properties, message.body, fallback=fallback)
        item = Item(message.tag, lane, generation, envelope, ticket_in(headers), message.redelivered)
        self._unsettled[message.tag] = item
        if generation == lane.generation:
            lane.used += 1
        if COPIES in headers:
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
            while lane.incoming and link is self._link and not link.ended.done() and not self._closed:
                batch = list(lane.incoming)
                try:
                    wanted = await self._known(lane, batch)
                except BrokerError as error:
                    log.warning("the store cannot be asked about what came (%s); trying again", error)
                    await asyncio.sleep(_STORE_PAUSE)
                    continue
                except Exception:  # whatever it is: what came and is never looked at would leave this consumer deaf
                    log.exception("what came cannot be looked at; trying again")
                    await asyncio.sleep(_STORE_PAUSE)
                    continue
                if link is not self._link or link.ended.done():
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
            if self._link is not None and not self._link.ended.done():
                self._admit_soon(self._link, lane)  # what came over another connection meanwhile

    async def _known(self, lane: Lane, batch: Sequence[Item]) -> set[Item]:
        """Complete what came by what the store knows of it, and give what is to be handled."""
        presented = [Presented(int(item.ticket.partition(":")[0]), item.ticket) for item in batch if item.ticket is not None]
        again = [item.envelope.id for item in batch if item.again]
        marks = [mark_of(lane.queue, identity) for identity in again]
        deaths: Mapping[int, int] = await self._outbox.deaths(marks) if again else {}
        earlier: Mapping[str, tuple[int, str | None]] = await self._outbox.earlier(lane.queue, again) if again else {}
        lent = iter(await self._outbox.present(lane.queue, lane.sign, presented) if presented else [])
        wanted: set[Item] = set()
        for item in batch:
            if item.ticket is not None:
                item.lent = next(lent)
                if item.lent is None:
                    continue
                item.envelope, item.attempt, item.note = item.lent.envelope, item.lent.attempt, item.lent.note
            elif item.envelope.id in earlier:
                spent, item.note = earlier[item.envelope.id]
                item.attempt, item.kept = spent + 1, True
            if item.again:
                item.deaths = deaths.get(mark_of(lane.queue, item.envelope.id), 0)
                item.attempt += item.deaths
            wanted.add(item)
        return wanted - await self._bury_poison([item for item in wanted if item.deaths >= DEATHS_ALLOWED])

    async def _bury_poison(self, poison: Sequence[Item]) -> set[Item]:
        """Make dead letters of what killed too many workers."""
        if poison:
            buried = [Dead(0, "worker_lost", f"{item.deaths} workers died while they ran this message") for item in poison]
            _, tickets = await self._outbox.settle([_ending(dead, item) for dead, item in zip(buried, poison, strict=True)])
            for item in poison:
                log.error("%s %s is a dead letter: %d workers died while they ran it", item.envelope.type, item.envelope.id, item.deaths)
            await self._send(tickets)
        return set(poison)

    # --- settling

    async def settle(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        refusals: list[Refusal] = []
        plain: list[tuple[int, Item]] = []
        stored: list[tuple[Settlement, Item]] = []
        back: list[Item] = []
        seen: set[int] = set()
        link = self._link
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
            elif isinstance(settlement, Retry) and item.lent is None and _is_untouched(settlement):
                back.append(item)
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
                if link is None or link is not self._link:
                    raise BrokerUnavailable("the connection was lost meanwhile")
                await link.sync()
            except BrokerUnavailable as error:
                refusals += [Refusal(tag, "stale", f"{error}; the message may come again") for tag in ended]
        return refusals

    async def _settle_stored(self, stored: Sequence[tuple[Settlement, Item]], acked: list[int]) -> list[Refusal]:
        """Settle what the store has a part in, or what publishes something; `acked` gets those that only RabbitMQ has to forget."""
        refusals: list[Refusal] = []
        simple = [(settlement, item) for settlement, item in stored if isinstance(settlement, Ack) and _is_simple(settlement, item)]
        outcomes = await asyncio.gather(*(self._publish(ack.then) for ack, _ in simple), return_exceptions=True)
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
        others = [(settlement, item) for settlement, item in stored if not isinstance(settlement, Ack) or not _is_simple(settlement, item)]
        if others:
            refusals += await self._settle_in_store(others)
        if unsure:
            raise unsure[0]  # what ended meanwhile is refused as stale when it is said again
        return refusals

    async def _settle_in_store(self, others: Sequence[tuple[Settlement, Item]]) -> list[Refusal]:
        ended, tickets = await self._outbox.settle([_ending(settlement, item) for settlement, item in others])
        refusals: list[Refusal] = []
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
            if any(_delays(settlement) for settlement, _ in others):
                self._look()
        return refusals

    async def _return(self, back: Sequence[Item]) -> None:
        """Give messages back to their places; if nobody waits here they must not come here again, only to lose their places later."""
        try:
            if back and not self._waiting:
                await self._release()
        finally:
            self._end([], back)

    def _end(self, done: Sequence[Item], back: Sequence[Item]) -> None:
        """Tell RabbitMQ what is done and what goes back to its place; as little as possible has to be said."""
        link = self._link
        if link is None or link.ended.done():
            return
        with contextlib.suppress(BrokerUnavailable):  # it ended meanwhile, and RabbitMQ has everything back
            for item in back:
                if self._unsettled.get(item.tag) is item:
                    del self._unsettled[item.tag]
                    item.lane.ended(item)
                    link.nack(item.tag)
            left = {item.tag: item for item in done if self._unsettled.get(item.tag) is item}
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
        """Give back to others what was pushed while nobody here waited, and have nothing more pushed."""
        async with self._changing:
            if not self._waiting:
                await self._let_go([lane for lane in self._all() if lane.used < lane.credit or lane.ready or lane.incoming])

    async def let_go(self, queue: str) -> None:
        """Give back what waits here of a queue: somebody wants to see or delete all of it."""
        async with self._changing:
            await self._let_go(self._lanes.get(queue, []))
        self._arrived.set()  # who waits asks for it again

    async def _let_go(self, lanes: Sequence[Lane], *, out_too: bool = False) -> None:
        link = self._link
        if link is None or link.ended.done():
            return
        with contextlib.suppress(BrokerError):
            for lane in lanes:
                if lane.subscription is not None:
                    tag, lane.subscription = lane.subscription, None
                    await link.cancel(tag)
            await _admitted(lanes)
            items = [item for lane in lanes for item in lane.ready]
            if out_too:
                items += self._out.values()
                self._out.clear()
            for lane in lanes:
                lane.ready.clear()
            await self._give_back(items)
            await link.sync()

    async def _give_back(self, items: Sequence[Item]) -> None:
        items = sorted(items, key=lambda item: item.tag)
        lent = [item for item in items if item.lent is not None]
        if lent:
            try:
                await self._outbox.settle([_ending(Retry(0, 0.0, counted=False), item) for item in lent])
            except BrokerError as error:
                log.warning("the store does not hear what is given back (%s); hanging up, so that RabbitMQ gives it to others", error)
                self.cut()
        self._end([], items)

    def _lost(self, link: Link) -> None:
        """Hear that the connection is gone: RabbitMQ gives what was lent over it to others."""
        if link is not self._link:
            return
        gone = [*self._out.values(), *(item for lane in self._all() for item in lane.ready)]
        lent = [item.lent for item in gone if item.lent is not None]
        self._out.clear()
        self._unsettled.clear()
        for lane in self._all():
            lane.forget()
        self._arrived.set()
        if not self._closed:
            log.warning("the connection to RabbitMQ that receives was lost (%s); opening another", link.ended.result())
        if lent:
            self._begin(self._tell_lost(lent))

    async def _tell_lost(self, lent: Sequence[Lent]) -> None:
        with contextlib.suppress(BrokerError):  # who gets the tickets takes the copies over in any case
            await self._outbox.lose(lent)

    async def close(self) -> None:
        """Give back what is out, at once and without counting an attempt."""
        self._closed = True
        self.stop()
        if self._idle is not None:
            self._idle.cancel()
        async with self._changing:
            await self._let_go(self._all(), out_too=True)
            if self._link is not None:
                await self._link.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Lose the connection, as if the network had failed."""
        if self._link is not None:
            self._link.cut()

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("receiving from RabbitMQ failed: %r", error, exc_info=error)


def marks_in(tags: Sequence[int]) -> list[int]:
    """Give the marks of messages by the tags under which they were out."""
    return [tag >> 28 for tag in tags]


async def _admitted(lanes: Sequence[Lane]) -> None:
    """Wait a while until the store has said what came."""
    admissions = [lane.admission for lane in lanes if lane.admission is not None]
    if admissions:
        await asyncio.wait(admissions, timeout=_ADMITTED)


def _delivery(tag: int, item: Item) -> Delivery:
    return Delivery(tag, item.lane.queue, item.attempt, item.envelope, item.note)


def _delays(settlement: Settlement) -> bool:
    """Tell whether something is due later by it."""
    if isinstance(settlement, Ack):
        return any(p.delay > 0 for p in settlement.then)
    return isinstance(settlement, Retry) and settlement.after > 0


def _is_untouched(retry: Retry) -> bool:
    return not retry.counted and retry.after <= 0 and retry.note is None and retry.error is None


def _is_simple(ack: Ack, item: Item) -> bool:
    """Tell whether a message of the broker itself ends with nothing but messages that the broker itself can keep."""
    return item.lent is None and not item.kept and not ack.marked and not any(is_kept(p) for p in ack.then)


def is_kept(publication: Publication) -> bool:
    """Tell whether the store keeps a publication: what RabbitMQ has no notion of."""
    return publication.options is not None or publication.delay > 0 or publication.priority != 0


def _ending(settlement: Settlement, item: Item) -> Ending:
    lane, envelope = item.lane, item.envelope
    match settlement:
        case Ack(_, then, result, marked):
            return Ending(
                lane.queue, item.attempt, envelope, item.lent, "ack",
                kept=item.kept, deaths=item.deaths, then=then, result=result, marked=marked,
            )  # fmt: skip
        case Retry(_, after, counted, error, note):
            return Ending(
                lane.queue, item.attempt, envelope, item.lent, "retry",
                kept=item.kept, deaths=item.deaths, after=after, counted=counted, text=error, note=note,
            )  # fmt: skip
        case Dead(_, reason, error):
            return Ending(
                lane.queue, item.attempt, envelope, item.lent, "dead", kept=item.kept, deaths=item.deaths, reason=reason, text=error
            )
