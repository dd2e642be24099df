"""The broker contract kept by RabbitMQ, beside a store that keeps what RabbitMQ has no notion of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol
from uuid import uuid4

from msgspec.structs import astuple, replace

from noria.brokers.contract import Delivery, Depth
from noria.brokers.rabbitmq import archive
from noria.brokers.rabbitmq.address import Address
from noria.brokers.rabbitmq.consuming import RabbitConsumer, Ways, is_kept, marks_in
from noria.brokers.rabbitmq.control import Control, Held, Part, Question
from noria.brokers.rabbitmq.declaring import Declared, declare, declare_again, declare_exchanges
from noria.brokers.rabbitmq.hazards import hazards
from noria.brokers.rabbitmq.lanes import QUORUM, lane_of, lanes_of
from noria.brokers.rabbitmq.link import Link
from noria.brokers.rabbitmq.outlet import Outgoing, Outlet, outgoing
from noria.brokers.rabbitmq.properties import COPIES, TICKET, properties_of
from noria.errors import BrokerError, BrokerUnavailable, NotFound, Unroutable
from noria.messages.envelope import Envelope, Publication, Receipt
from noria.messages.finding import Finding
from noria.messages.outbox import Counts, Outbox, Ticket
from noria.messages.topology import Topology

log = logging.getLogger("noria.rabbitmq")

_NOTHING: Final = b""
_LOOKING: Final = 0.5  # seconds
_SETTLING: Final = 2.0  # seconds: killed within one (3.10.8) after it made a quorum queue, RabbitMQ has it, but never finds its log
_LOOK: Final = 1.0  # seconds at most between two looks at what is due
_PRUNE: Final = 60.0
_AGAIN_AT_MOST: Final = 10_000  # tickets that could not be sent
_AGAIN_AFTER: Final = 0.2
_TRIES: Final = 20
_BIND: Final = 3.0  # seconds between two looks at exchanges that others may delete and make again: our bindings go with them
_CONFIRMED: Final = 0.5  # seconds for which confirmed tickets are collected


class Kept(Outbox, Protocol):
    """What the broker needs of the store beside it."""

    async def declare(self, topology: Topology) -> bool:
        """See `Broker.declare`; tells whether anything was new."""
        ...

    async def lanes(self, queue: str, *, fresh: bool = False) -> int:
        """Give the lanes of a declared queue, or raise `NotFound`; `fresh` looks at what others declared meanwhile."""
        ...

    async def takers(self, exchange: str, routing_key: str, *, fresh: bool = False) -> Sequence[str]:
        """Give the queues that take this routing key, or raise `Unroutable`."""
        ...

    async def blame(self, marks: Sequence[int]) -> None:
        """Count a death for each of these marks."""
        ...

    async def promote(self) -> tuple[list[Ticket], float | None]:
        """Make ready what is due; give its tickets, and in how many seconds the next is due."""
        ...

    async def unsent(self) -> list[Ticket]:
        """Give tickets that were not seen confirmed for a while."""
        ...

    async def prune(self) -> None:
        """Delete a bounded part of what was kept long enough."""
        ...

    async def confirm(self, sendings: Sequence[tuple[int, int]]) -> None:
        """Hear that RabbitMQ has these tickets, each by its number and which sending it was."""
        ...

    async def counts(self, queues: Sequence[str]) -> Mapping[str, Counts]:
        """Count the copies of queues. Raises `NotFound`."""
        ...

    async def purge(self, queue: str) -> int:
        """Delete copies that are ready or delayed, and say how many."""
        ...

    async def reticket(self, queue: str) -> None:
        """Have all that is ready given tickets again."""
        ...

    async def remove(self, queue: str) -> None:
        """Forget an empty queue."""
        ...

    async def peek(self, queue: str, state: str, limit: int) -> list[tuple[int, int, Envelope]]:
        """Show copies of a queue in a state, each with its place, attempts and envelope."""
        ...

    async def session(self) -> int:
        """Give the number of this session."""
        ...

    async def consumers(self) -> Sequence[int]:
        """Give the sessions that live and consume."""
        ...

    async def consume(self) -> None:
        """Note that this session consumes."""
        ...

    async def queues(self) -> Sequence[str]:
        """Give the queues that were declared."""
        ...

    async def hazards(self) -> list[Finding]:
        """See `Broker.hazards`."""
        ...


class RabbitBroker:
    """Speaks to a RabbitMQ cluster and to the store beside it."""

    def __init__(self, url: str, kept: Kept, *, role: str = "client", deadline: float = 5.0, settling: float = _SETTLING) -> None:
        """Prepare a broker inside a running event loop; it connects with its first verb."""
        self._settling = settling
        self.address = Address.parse(url)
        self._kept = kept
        self._role = role
        self._deadline = deadline
        self._outlet = Outlet(self.address, name=f"noria {role} publishes", deadline=deadline)
        self._control = Control(lambda: self._open("asks"), self._answer)
        self._consumers: set[RabbitConsumer] = set()
        self._confirmed: set[tuple[int, int]] = set()
        self._relaying: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._lanes_declared: set[str] = set()
        self._declared = Declared()
        self._again: dict[tuple[int, int, str, str], Ticket] = {}
        self._tries: dict[tuple[int, int, str, str], int] = {}

    async def _open(self, what: str) -> Link:
        return await Link.open(self.address, name=f"noria {self._role} {what}", deadline=self._deadline, confirms=False)

    async def close(self) -> None:
        """Close the connections; what consumers held is ready again."""
        for consumer in list(self._consumers):
            await consumer.close()
        relaying, self._relaying = self._relaying, None
        if relaying is not None:
            relaying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relaying
        if self._confirmed:
            with contextlib.suppress(BrokerError):
                await self._tell_confirmed()
        await self._outlet.close()
        await self._control.close()

    def cut(self) -> None:
        """Lose all connections, as if the network had failed."""
        for consumer in self._consumers:
            consumer.cut()
        self._outlet.cut()
        self._control.cut()

    # --- declaring

    async def declare(self, topology: Topology) -> None:
        link = await self._control.link()
        await declare_exchanges(link, topology.exchanges)  # what RabbitMQ refuses must not be remembered
        is_new = await self._kept.declare(topology)
        lanes = {queue.name: await self._kept.lanes(queue.name) for queue in topology.queues}
        await declare(link, topology, lanes)
        self._declared.add(topology)
        if is_new:
            await asyncio.sleep(self._settling)  # nothing tells when it has happened

    async def _declare_again(self, *, only_fragile: bool = False) -> None:
        """Make exist again what this process declared: RabbitMQ, or what is not ours in it, may have begun anew."""
        topology = self._declared.fragile() if only_fragile else self._declared.all()
        if not topology.queues and not topology.exchanges:
            return
        lanes: dict[str, int] = {}
        for queue in topology.queues:
            with contextlib.suppress(NotFound):  # it was deleted, by somebody who does not need it any more
                lanes[queue.name] = await self._kept.lanes(queue.name)
        await declare_again(await self._control.link(), topology, lanes)

    # --- publishing

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        if not publications:
            return []
        if any(is_kept(p) for p in publications):
            receipts, tickets = await self._kept.publish(publications)
            await self.send(tickets)
            if any(p.delay > 0 for p in publications):
                self._look()
            return receipts
        ways = dict.fromkeys((p.exchange, p.routing_key) for p in publications)
        alone = {way for way in ways if not await self._is_taken(*way)}
        for publication in publications:  # those go to queues of somebody else, if at all: RabbitMQ knows
            if (publication.exchange, publication.routing_key) in alone:
                await self._outlet.publish([outgoing(publication)], known=False)
        if rest := [outgoing(p) for p in publications if (p.exchange, p.routing_key) not in alone]:
            await self._outlet.publish(rest, known=True)
        return [Receipt(p.envelope.id) for p in publications]

    async def _is_taken(self, exchange: str, routing_key: str) -> bool:
        """Tell whether somebody whom we know takes it. Raises `Unroutable` if nobody can."""
        try:
            await self._kept.takers(exchange, routing_key)
        except Unroutable:
            pass
        else:
            return True
        try:
            await self._kept.takers(exchange, routing_key, fresh=True)
        except Unroutable:
            link = await self._control.link()
            try:
                if exchange:
                    await link.exchange(exchange, "direct", passive=True)
                else:
                    await link.queue(routing_key, passive=True)
            except NotFound:
                pass
            else:
                return False
            raise
        return True

    async def send(self, tickets: Sequence[Ticket]) -> None:
        """Send tickets; those that cannot be sent now are sent later, by whoever looks for them."""
        if not tickets:
            return
        try:
            await self._open_lanes(tickets)
            outcomes: list[Exception | None] = []
            # One whose exchange is gone ends the connection, and with it what others wait for: those go last.
            tickets = sorted(tickets, key=lambda ticket: bool(ticket.exchange))
            straight = [ticket for ticket in tickets if not ticket.exchange]
            for some in (straight, tickets[len(straight) :]):
                outcomes += await self._outlet.publish_each([_ticket(ticket) for ticket in some], known=True) if some else []
        except BrokerError as error:
            log.warning("%d tickets of messages that are stored cannot be sent now (%s); they follow", len(tickets), error)
            self._send_again(tickets)
            return
        failed: set[tuple[int, int]] = set()
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            if outcome is not None:
                failed.add((ticket.number, ticket.sending))
                self._send_again((ticket,))
                self._lanes_declared.discard(lane_of(ticket.routing_key, ticket.priority))
                log.warning("the ticket of a message that is stored cannot be sent now (%s); it follows", outcome)
        self._confirmed |= {(ticket.number, ticket.sending) for ticket in tickets} - failed
        if any(ticket.priority for ticket in tickets):  # of a priority only what is known to be there is chosen from
            with contextlib.suppress(BrokerError):
                await self._tell_confirmed()
        self._begin_to_relay()

    def _send_again(self, tickets: Sequence[Ticket]) -> None:
        """Send tickets with the next looks; those that fail often are left to whoever looks for what was not confirmed."""
        for ticket in tickets:
            which = (ticket.number, ticket.sending, ticket.exchange, ticket.routing_key)
            tries = self._tries.get(which, 0) + 1
            if tries <= _TRIES and len(self._again) < _AGAIN_AT_MOST:
                self._tries[which], self._again[which] = tries, ticket
        self._begin_to_relay()

    async def _open_lanes(self, tickets: Sequence[Ticket]) -> None:
        """Make the lanes of larger and smaller priorities exist, and tell those who consume their queues."""
        for ticket in tickets:
            name = lane_of(ticket.routing_key, ticket.priority)
            if ticket.exchange or not ticket.priority or name in self._lanes_declared:
                continue
            link = await self._control.link()
            await link.queue(name, arguments=QUORUM)
            lanes = await self._kept.lanes(ticket.routing_key, fresh=True)
            for consumer in self._consumers:
                consumer.open_lane(ticket.routing_key, lanes)
            await self._control.tell(Question("", (ticket.routing_key,), lanes))
            self._lanes_declared.add(name)

    # --- the relay

    def _look(self) -> None:
        """Look at what is due, soon and from now on."""
        self._due.set()
        self._begin_to_relay()

    def _begin_to_relay(self) -> None:
        """Look at what is due from now on."""
        if self._relaying is None:
            self._relaying = asyncio.get_running_loop().create_task(self._relay())

    async def _relay(self) -> None:
        """Send the tickets of what became due, and those that somebody could not send."""
        loop = asyncio.get_running_loop()
        swept = confirmed = pruned = bound = loop.time()
        while True:
            self._due.clear()
            wait = _LOOK
            try:
                tickets, due = await self._kept.promote()
                again, self._again = self._again, {}
                await self.send([*again.values(), *tickets])
                if not self._again:
                    self._tries.clear()
                for consumer in list(self._consumers):
                    for queue in consumer.queues:
                        consumer.open_lane(queue, await self._kept.lanes(queue))
                wait = _LOOK if due is None else max(0.0, min(_LOOK, due))
                if loop.time() - confirmed >= _CONFIRMED and self._confirmed:
                    confirmed = loop.time()
                    await self._tell_confirmed()
                if loop.time() - swept >= _LOOK:
                    swept = loop.time()
                    await self.send(await self._kept.unsent())
                if loop.time() - bound >= _BIND:
                    bound = loop.time()
                    await self._declare_again(only_fragile=True)
                if loop.time() - pruned >= _PRUNE:
                    pruned = loop.time()
                    await self._kept.prune()
            except BrokerError as error:
                log.warning("cannot look at what is due (%s); trying again", error)
            except Exception:  # whatever it is, what is due must be looked at again
                log.exception("looking at what is due failed; trying again")
            if self._again:
                wait = min(wait, _AGAIN_AFTER)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._due.wait()

    async def _tell_confirmed(self) -> None:
        confirmed, self._confirmed = self._confirmed, set()
        try:
            await self._kept.confirm(sorted(confirmed))
        except BrokerError:
            self._confirmed |= confirmed
            raise

    # --- consuming

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, prefetch: int) -> AsyncGenerator[RabbitConsumer]:
        known = {queue: await self._kept.lanes(queue, fresh=True) for queue in queues}
        self._control.keep()
        await self._control.link()
        await self._kept.consume()
        consumer = RabbitConsumer(
            known,
            prefetch,
            outbox=self._kept,
            ways=Ways(lambda: self._open("receives"), self.publish, self.send, self._look, self._declare_again, self._declared.type_of),
            patience=self._deadline,
        )
        self._consumers.add(consumer)
        self._look()
        try:
            yield consumer
        finally:
            await consumer.close()
            self._consumers.discard(consumer)

    async def blame(self, deliveries: Sequence[int]) -> None:
        """Hear which deliveries a worker of this host was running when it died."""
        await self._kept.blame(marks_in(deliveries))

    async def _answer(self, question: Question) -> Held:
        session = await self._kept.session()
        for consumer in list(self._consumers):
            for queue in question.queues:
                if question.lanes:
                    consumer.open_lane(queue, question.lanes)
                if question.let_go:
                    await consumer.let_go(queue)
            await consumer.admitted()
        parts = {queue: _sum([consumer.held(queue) for consumer in self._consumers]) for queue in question.queues}
        running: tuple[Any, ...] = ()
        if question.details:
            running = tuple(d for consumer in self._consumers for queue in question.queues for d in consumer.running(queue))
        return Held(question.id, session, parts, sum(consumer.holding for consumer in self._consumers), running)

    async def _held(self, queues: Sequence[str], *, details: bool = False, let_go: bool = False) -> list[Held]:
        """Tell what each session that consumes holds."""
        mine = await self._kept.session()
        question = Question(uuid4().hex, tuple(queues), details=details, let_go=let_go)
        others = [session for session in await self._kept.consumers() if session != mine]
        found = [await self._answer(question), *await self._control.ask(question, others)]
        return [replace(held, id="") for held in sorted(found, key=lambda held: held.session)]

    async def holding(self) -> Mapping[int, int]:
        """Tell how many deliveries each session has."""
        return {held.session: held.holding for held in await self._held(())}

    async def consuming(self, queue: str) -> int:
        """Count the consumers of a queue."""
        try:
            return (await (await self._control.link()).queue(queue, passive=True))[2]
        except NotFound:
            return 0

    async def about(self) -> str:
        """Tell which server answers, for people."""
        link = await self._control.link()
        return f"RabbitMQ {link.server_version} at {link.where}"

    # --- looking

    async def depth(self, queue: str) -> Depth:
        return (await self.depths((queue,)))[queue]

    async def depths(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """Count the messages of queues; what moves all the time may be counted twice or not."""
        link, loop = await self._control.link(), asyncio.get_running_loop()
        until = loop.time() + _LOOKING
        seen = await self._looked_at(link, queues)
        while loop.time() < until:  # three places are looked at one after the other: until nothing has moved meanwhile
            before, seen = seen, await self._looked_at(link, queues)
            if before == seen:
                break
        return {queue: _depth(queue, *seen) for queue in queues}

    async def _looked_at(self, link: Link, queues: Sequence[str]) -> tuple[Mapping[str, Counts], dict[str, int], list[Held]]:
        counts = await self._kept.counts(queues)
        held = await self._held(queues)
        waiting = {
            queue: sum([await _ready(link, name) for name in lanes_of(queue, await self._kept.lanes(queue))])
            for queue in queues
        }  # fmt: skip
        return counts, waiting, held

    async def purge(self, queue: str, *, delete: bool = False) -> int:
        lanes = await self._kept.lanes(queue, fresh=True)
        if delete:
            depth = await self.depth(queue)
            if depth.running or depth.dead:
                raise BrokerError(
                    f'queue "{queue}" has {depth.running} running and {depth.dead} dead messages; end or discard them before deleting it'
                )
        await self._held((queue,), let_go=True)
        counts = (await self._kept.counts((queue,)))[queue]
        gone = await self._kept.purge(queue)
        link = await self._control.link()
        purged = 0
        for name in lanes_of(queue, lanes):
            with contextlib.suppress(NotFound):  # a lane is made with its first ticket
                purged += await link.purge(name)
        await self._kept.reticket(queue)  # of what was published meanwhile
        self._look()
        if delete:
            await self._kept.remove(queue)
            self._declared.forget(queue)
            for name in lanes_of(queue, lanes):
                await link.delete(name)
                self._lanes_declared.discard(name)
        return gone + max(0, purged - counts.tickets - counts.lost)

    async def peek(self, queue: str, state: str = "ready", limit: int = 20) -> list[Delivery]:
        """Show messages of a queue without lending them: ready, running or delayed."""
        if state not in ("ready", "running", "delayed"):
            raise NotFound(f'no state is called "{state}"; it is ready, running or delayed (dead ones: "noria dead list")')
        rows = await self._kept.peek(queue, state, limit)
        return [Delivery(place, queue, attempt + 1, envelope) for place, attempt, envelope in rows]

    async def hazards(self) -> list[Finding]:
        """Look at RabbitMQ and at the store beside it."""
        link = await Link.open(self.address, name="noria doctor", deadline=self._deadline)
        try:
            lanes = {queue: await self._kept.lanes(queue) for queue in await self._kept.queues()}
            found = [finding async for finding in hazards(link, self.address, lanes, self._deadline)]
        finally:
            await link.close()
        return [*found, *await self._kept.hazards()]

    # --- the archive

    async def archived(self, after: int, limit: int, pattern: str = "#") -> list[archive.Found]:
        """Read the archive from a number on; with a pattern, only what has a fitting routing key."""
        link = await self._open("reads the archive")
        try:
            async with asyncio.timeout(self._deadline):
                return await archive.read(link, after, limit, pattern)
        except NotFound:
            return []  # no exchange archives
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ at {link.where} did not show the archive within {self._deadline:g} s") from None
        finally:
            await link.close()


def _depth(queue: str, counts: Mapping[str, Counts], waiting: Mapping[str, int], held: Sequence[Held]) -> Depth:
    """Give the counts of a queue from what the store, RabbitMQ and the sessions say of it."""
    stored, here = counts[queue], _sum([h.queues[queue] for h in held if queue in h.queues])
    tickets = stored.tickets + stored.lost - here.tickets  # of the messages that wait in RabbitMQ
    plain = max(0, waiting[queue] - tickets + here.waiting)
    return Depth(
        ready=plain + stored.ready + stored.lost + here.copies_waiting,
        running=max(0, here.out + stored.running - here.copies_waiting),
        delayed=stored.delayed,
        dead=stored.dead,
    )


def _sum(parts: Sequence[Part]) -> Part:
    return Part(*(sum(column) for column in zip((0, 0, 0, 0), *(astuple(part) for part in parts), strict=True)))


async def _ready(link: Link, name: str) -> int:
    try:
        return (await link.queue(name, passive=True))[1]
    except NotFound:
        return 0  # a lane is made with its first ticket


def _ticket(ticket: Ticket) -> Outgoing:
    """Give the message that stands for a copy; through an exchange it is the message itself, for other programs."""
    if ticket.exchange:
        marks: Mapping[str, str] = {COPIES: "1"} if ticket.only_copies else {TICKET: f"{ticket.number}:{uuid4().hex}"}
        return Outgoing(ticket.exchange, ticket.routing_key, ticket.envelope.body, properties_of(ticket.envelope, marks))
    short = Envelope(ticket.envelope.id, ticket.envelope.type, _NOTHING, ticket.envelope.timestamp)
    name = lane_of(ticket.routing_key, ticket.priority)
    return Outgoing("", name, _NOTHING, properties_of(short, {TICKET: f"{ticket.number}:{uuid4().hex}"}))
