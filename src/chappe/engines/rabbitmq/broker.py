"""The broker contract kept by RabbitMQ, beside a store that keeps what RabbitMQ has no notion of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

from msgspec.structs import astuple, replace

from chappe.engines.contract.archive import Page
from chappe.engines.contract.broker import Death, Delivery, Depth
from chappe.engines.rabbitmq import archive
from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.consuming import RabbitConsumer, Ways
from chappe.engines.rabbitmq.control import Control, Held, Part, Question
from chappe.engines.rabbitmq.declaring import Declared, declare, declare_again, declare_exchanges
from chappe.engines.rabbitmq.endings import is_kept, marks_in
from chappe.engines.rabbitmq.kept import Kept
from chappe.engines.rabbitmq.lane import Said
from chappe.engines.rabbitmq.lanes import lanes_of
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.outbox import Counts
from chappe.engines.rabbitmq.outlet import Outlet, outgoing, raise_if_refused
from chappe.engines.rabbitmq.preflight import preflight
from chappe.engines.rabbitmq.properties import refuse_unencodable
from chappe.engines.rabbitmq.relay import Relay
from chappe.errors import BrokerError, BrokerUnavailable, NotFound, Rejected, Unroutable
from chappe.messages.envelope import Publication, Receipt
from chappe.messages.finding import Finding
from chappe.messages.topology import Queue, Topology

_LOOKS, _LOOKS_AT_MANY = 20, 4
_SETTLING: Final = 2.0  # seconds: killed within one (3.10.8) after it made a quorum queue, RabbitMQ has it, but never finds its log


class RabbitBroker:
    """Speaks to a RabbitMQ cluster and to the store beside it."""

    def __init__(self, url: str, kept: Kept, *, role: str = "client", deadline: float = 5.0, settling: float = _SETTLING) -> None:
        """Prepare a broker inside a running event loop; it connects with its first verb."""
        self._settling = settling
        self.address = Address.parse(url)
        self._kept = kept
        self._role = role
        self._deadline = deadline
        self._outlet = Outlet(self.address, name=f"chappe {role} publishes", deadline=deadline)
        self._control = Control(lambda: self._open("asks"), self._answer)
        self._consumers: set[RabbitConsumer] = set()
        self._declared = Declared()
        self._relay = Relay(
            kept, self._outlet, self._control, self._consumers, declare_fragile=lambda: self._declare_again(only_fragile=True)
        )
        self.send = self._relay.send

    async def _open(self, what: str) -> Link:
        return await Link.open(self.address, name=f"chappe {self._role} {what}", deadline=self._deadline, confirms=False)

    async def close(self) -> None:
        """Close the connections; what consumers held is ready again."""
        for consumer in list(self._consumers):
            await consumer.close()
        await self._relay.close()
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
        if only_fragile:
            for consumer in list(self._consumers):
                await consumer.bind_again()

    # --- publishing

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        if not publications:
            return []
        if any(is_kept(p) for p in publications):
            refuse_unencodable(publications)
            receipts, tickets = await self._kept.publish(publications)
            await self._relay.send(tickets)
            if any(p.delay > 0 for p in publications):
                self._relay.look()
            return receipts
        await self._publish_rest(publications, set())
        return [Receipt(p.envelope.id) for p in publications]

    async def _publish_rest(self, publications: Sequence[Publication], said: set[Said]) -> None:
        """Publish what is not said yet, and note what is then."""
        rest = [p for p in publications if _said(p) not in said] if said else publications
        ways = dict.fromkeys((p.exchange, p.routing_key) for p in rest)
        alone = {way for way in ways if not await self._is_taken(*way)}
        for p in rest:  # those go to queues of somebody else, if at all: RabbitMQ knows
            if (p.exchange, p.routing_key) in alone:
                await self._outlet.publish([outgoing(p)], known=False)
                said.add(_said(p))
        if rest := [p for p in rest if (p.exchange, p.routing_key) not in alone]:
            outcomes = await self._outlet.publish_each([outgoing(p) for p in rest], known=True)
            said.update(_said(p) for p, outcome in zip(rest, outcomes, strict=True) if outcome is None)
            raise_if_refused(outcomes)

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

    # --- consuming

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, prefetch: int, temporary: Sequence[Queue] = ()) -> AsyncGenerator[RabbitConsumer]:
        known = {queue: await self._kept.lanes(queue, fresh=True) for queue in queues}
        self._control.keep()
        await self._control.link()
        await self._kept.consume()
        consumer = RabbitConsumer(
            known,
            prefetch,
            temporary=temporary,
            outbox=self._kept,
            ways=Ways(
                lambda: self._open("receives"), self._publish_rest, self.send, self._relay.look, self._declare_again, self._declared.type_of
            ),
            patience=self._deadline,
        )
        self._declared.lend(temporary)
        self._consumers.add(consumer)
        self._relay.look()
        try:
            if temporary:
                await consumer.open()
            yield consumer
        finally:
            await consumer.close()
            self._consumers.discard(consumer)

    async def blame(self, death: Death) -> None:
        """Hear which deliveries a worker of this host was running when it died."""
        await self._kept.blame(marks_in(death.deliveries))

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
        link = await self._control.link()
        seen = await self._looked_at(link, queues)
        looks = _LOOKS if len(queues) == 1 else _LOOKS_AT_MANY
        for _ in range(looks):  # three places are looked at one after the other: until nothing has moved meanwhile
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
        self._relay.look()
        if delete:
            await self._kept.remove(queue)
            self._declared.forget(queue)
            for name in lanes_of(queue, lanes):
                await link.delete(name)
                self._relay.forget(name)
        return gone + max(0, purged - counts.tickets - counts.lost)

    async def cancel(self, message_id: str) -> str:
        raise Rejected(f"message {message_id}: nothing can be cancelled on RabbitMQ yet")

    async def peek(self, queue: str, state: str = "ready", limit: int = 20) -> list[Delivery]:
        """Show messages of a queue without lending them: ready, running or delayed."""
        if state not in ("ready", "running", "delayed"):
            raise NotFound(f'no state is called "{state}"; it is ready, running or delayed (dead ones: "chappe dead list")')
        rows = await self._kept.peek(queue, state, limit)
        return [Delivery(place, queue, attempt + 1, envelope) for place, attempt, envelope in rows]

    async def preflight(self) -> list[Finding]:
        """Look at RabbitMQ and at the store beside it."""
        link = await Link.open(self.address, name="chappe doctor", deadline=self._deadline)
        try:
            lanes = {queue: await self._kept.lanes(queue) for queue in await self._kept.queues()}
            found = [finding async for finding in preflight(link, self.address, lanes, self._deadline)]
        finally:
            await link.close()
        return [*found, *await self._kept.preflight()]

    # --- the archive

    async def archived(self, after: int, limit: int, pattern: str = "#", wait: float = 0.0) -> Page:
        """See `Archive.archived`."""
        link = await self._open("reads the archive")
        try:
            async with asyncio.timeout(self._deadline + wait):
                return await archive.read(link, after, limit, pattern, wait)
        except NotFound:
            return Page([], 0, 0)  # no exchange archives
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ at {link.where} did not show the archive within {self._deadline:g} s") from None
        finally:
            await link.close()


def _depth(queue: str, counts: Mapping[str, Counts], waiting: Mapping[str, int], held: Sequence[Held]) -> Depth:
    """Return the counts of a queue from what the store, RabbitMQ and the sessions say of it."""
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


def _said(publication: Publication) -> Said:
    return publication.exchange, publication.routing_key, publication.envelope.id
