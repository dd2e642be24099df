"""The broker contract kept by RabbitMQ, beside what is kept elsewhere because RabbitMQ has no notion of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from chappe.engines.contract.archive import Page
from chappe.engines.contract.broker import Consumer, Death, Depth
from chappe.engines.rabbitmq import archive, management
from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.confirms import raise_if_refused
from chappe.engines.rabbitmq.consuming import RabbitConsumer
from chappe.engines.rabbitmq.control import Control, Held, Part, Question, pieces
from chappe.engines.rabbitmq.declaring import Declared, declare, declare_again, declare_exchanges
from chappe.engines.rabbitmq.kept import Kept, is_kept
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import RELAY
from chappe.engines.rabbitmq.outlet import Outlet, outgoing
from chappe.engines.rabbitmq.preflight import preflight
from chappe.engines.rabbitmq.properties import refuse_unencodable
from chappe.engines.rabbitmq.pushed import Said
from chappe.engines.rabbitmq.pushing import Ways
from chappe.engines.rabbitmq.relay import Relay
from chappe.engines.rabbitmq.tasks import Tasks
from chappe.errors import BrokerError, BrokerUnavailable, NotFound, Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Publication, Receipt
from chappe.messages.finding import Finding
from chappe.messages.topology import Queue, Topology

_LOOKS: Final = 20
_SETTLING: Final = 2.0  # seconds: killed within one (3.10.8) after it made a quorum queue, RabbitMQ has it, but never finds its log
_PROMPT: Final = 0.3
_BIND: Final = 3.0  # seconds between two looks at exchanges that others may delete and make again: our bindings go with them


class RabbitBroker:
    """Speaks to a RabbitMQ cluster, and to what keeps messages beside it."""

    def __init__(self, url: str, kept: Kept, *, role: str = "client", deadline: float = 5.0, settling: float = _SETTLING) -> None:
        """Prepare a broker inside a running event loop; it connects with its first verb."""
        self._settling = settling
        self.address = Address.parse(url)
        self._kept = kept
        self._role = role
        self._deadline = deadline
        self._outlet = Outlet(self.address, name=f"chappe {role} publishes", deadline=deadline)
        self._control = Control(kept.presence, self._answer)
        self._asking: Link | None = None
        self._opening = asyncio.Lock()
        self._consumers: set[RabbitConsumer] = set()
        self._declared = Declared()
        self._relay = Relay(
            lambda: kept.consume([RELAY], prefetch=1000), Outlet(self.address, name=f"chappe {role} relays", deadline=deadline)
        )
        self._tasks = Tasks("looking after exchanges")
        self._binds = False
        self._passing: asyncio.Task[None] | None = None
        self._passed: dict[str, tuple[int, int]] = {}

    async def _open(self, what: str) -> Link:
        return await Link.open(self.address, name=f"chappe {self._role} {what}", deadline=self._deadline)

    async def _link(self) -> Link:
        """Return the connection over which RabbitMQ is asked. Raises `BrokerUnavailable`."""
        async with self._opening:
            if self._asking is None or self._asking.ended.done():
                self._asking = await self._open("asks")
            return self._asking

    async def close(self) -> None:
        """Close the connections; what consumers held is ready again."""
        await self._tasks.close()
        for consumer in list(self._consumers):
            await consumer.close()
        await self._relay.close()
        await self._outlet.close()
        await self._control.close()
        if self._asking is not None:
            await self._asking.close()
        await self._kept.close()

    # --- declaring

    async def declare(self, topology: Topology) -> None:
        link = await self._link()
        await declare_exchanges(link, topology.exchanges)  # what RabbitMQ refuses must not be remembered
        is_new = await self._kept.declare_new(topology)
        await declare(link, topology)
        self._declared.add(topology)
        if is_new:
            await asyncio.sleep(self._settling)  # nothing tells when it has happened

    async def _declare_again(self, *, only_fragile: bool = False) -> None:
        """Make exist again what this process declared: RabbitMQ, or what is not ours in it, may have begun anew."""
        topology = self._declared.fragile() if only_fragile else self._declared.all()
        if not topology.queues and not topology.exchanges:
            return
        there = set(await self._kept.queues())  # others were deleted, by somebody who does not need them any more
        topology = Topology(topology.exchanges, tuple(queue for queue in topology.queues if queue.name in there))
        await declare_again(await self._link(), topology)
        if only_fragile:
            for consumer in list(self._consumers):
                await consumer.pushing.subscriptions.bind_again()

    async def _bind_again(self) -> None:
        while True:
            await asyncio.sleep(_BIND)
            with contextlib.suppress(BrokerError):  # it is looked at again
                await self._declare_again(only_fragile=True)

    # --- publishing

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        if not publications:
            return []
        if not any(is_kept(p) for p in publications):
            await self._publish_rest(publications, set())
            return [Receipt(p.envelope.id) for p in publications]
        refuse_unencodable([p for p in publications if p.exchange])  # what is relayed must be sayable later
        receipts = await self._kept.publish(publications)
        self.relay(publications)
        return receipts

    def relay(self, publications: Sequence[Publication]) -> None:
        """Publish what is kept for an exchange from now on, if any of these is."""
        if any(p.exchange for p in publications):
            self._relay.begin()

    def queue_of(self, tag: int) -> str | None:
        """Return the queue of a delivery of RabbitMQ that is out here."""
        return next((queue for consumer in self._consumers if (queue := consumer.queue_of(tag)) is not None), None)

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
        for fresh in (False, True):
            with contextlib.suppress(Unroutable):
                await self._kept.takers(exchange, routing_key, fresh=fresh)
                return True
        link = await self._link()
        try:
            if exchange:
                await link.exchange(exchange, "direct", passive=True)
            else:
                await link.queue(routing_key, passive=True)
        except NotFound:
            await self._kept.takers(exchange, routing_key)  # says what is declared
        return False

    # --- consuming

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, prefetch: int, temporary: Sequence[Queue] = ()) -> AsyncGenerator[Consumer]:
        async with self._kept.consume(queues, prefetch=prefetch) as kept:
            if self._kept.presence.info.get("suspects"):  # all of them are kept
                yield kept
                return
            await self._kept.presence.show_consuming()
            self._control.begin()
            await self._link()
            ways = Ways(lambda: self._open("receives"), self._publish_rest, self._declare_again, self._declared.type_of)
            consumer = RabbitConsumer(queues, prefetch, temporary=temporary, kept=kept, ways=ways, patience=self._deadline)
            self._declared.lend(temporary)
            self._consumers.add(consumer)
            self._relay.begin()
            if not self._binds:
                self._binds = True
                self._tasks.begin(self._bind_again())
            try:
                if temporary:
                    await consumer.pushing.subscriptions.open()
                yield consumer
            finally:
                await consumer.close()
                self._consumers.discard(consumer)

    async def blame(self, death: Death) -> None:
        await self._kept.blame(death)

    async def _answer(self, question: Question) -> Held:
        session = await self._kept.presence.number()
        for consumer in list(self._consumers):
            for queue in question.queues:
                if question.let_go:
                    await consumer.pushing.let_go(queue)
            await consumer.pushing.admitted()
        parts = {queue: _sum([consumer.pushing.held(queue) for consumer in self._consumers]) for queue in question.queues}
        cancels = any(consumer.cancel(question.cancel) for consumer in self._consumers) if question.cancel else False
        return Held(question.id, session, parts, sum(len(consumer.pushing.out) for consumer in self._consumers), cancels)

    async def _held(self, queues: Sequence[str], *, let_go: bool = False, cancel: str = "") -> list[Held]:
        """Tell what each session that consumes holds."""
        mine = await self._kept.presence.number()
        question = Question(uuid4().hex, mine, tuple(queues), let_go, cancel)
        others = [session for session in await self._kept.presence.consumers() if session != mine]
        found = [await self._answer(question), *await self._control.ask(question, others)]
        return [replace(held, id="") for held in sorted(found, key=lambda held: held.session)]

    # --- what is shown beside what is kept

    async def holding(self) -> Mapping[int, int]:
        """Tell how many deliveries of RabbitMQ each session has."""
        return {held.session: held.holding for held in await self._held(())}

    async def about(self) -> str:
        """Tell which server answers, for people."""
        link = await self._link()
        return f"RabbitMQ {link.server_version} at {link.where}"

    async def passed(self, exchanges: Sequence[Exchange]) -> dict[str, tuple[int, int]]:
        """Return what the management plugin told last of exchanges, nothing without one; a port that is silent keeps nobody waiting.

        It is asked where the URL names its port only: by itself Chappe tells no port the password again and again.
        """
        if not self.address.names_management:
            return {}
        if self._passing is None or self._passing.done():
            host = (await self._link()).where.rpartition(":")[0]
            self._passing = self._tasks.begin(self._look_at(host, exchanges))
        await asyncio.wait([self._passing], timeout=_PROMPT)
        return self._passed

    async def _look_at(self, host: str, exchanges: Sequence[Exchange]) -> None:
        try:
            self._passed = await management.passed(self.address, host, exchanges, self._deadline)
        except BrokerError:
            self._passed = {}

    async def counts(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """Count the messages of RabbitMQ's own in queues."""
        link = await self._link()
        held = [one for some in await asyncio.gather(*map(self._held, pieces(queues))) for one in some]
        counted: dict[str, Depth] = {}
        for queue in queues:
            here = _sum([h.queues[queue] for h in held if queue in h.queues])
            counted[queue] = Depth(ready=await _ready(link, queue) + here.waiting, running=here.out)
        return counted

    # --- looking

    async def depth(self, queue: str) -> Depth:
        seen = await self._looked_at(queue)
        for _ in range(_LOOKS):  # three places are looked at one after the other: until nothing has moved meanwhile
            before, seen = seen, await self._looked_at(queue)
            if before == seen:
                break
        return seen

    async def _looked_at(self, queue: str) -> Depth:
        kept = await self._kept.depth(queue)
        pushed = (await self.counts([queue]))[queue]
        return Depth(kept.ready + pushed.ready, kept.running + pushed.running, kept.delayed, kept.dead)

    async def purge(self, queue: str, *, delete: bool = False) -> int:
        if delete:
            depth = await self.depth(queue)
            if depth.running or depth.dead:
                raise BrokerError(
                    f'queue "{queue}" has {depth.running} running and {depth.dead} dead messages; end or discard them before deleting it'
                )
        await self._held((queue,), let_go=True)
        gone = await self._kept.purge(queue, delete=delete)
        link = await self._link()
        with contextlib.suppress(NotFound):
            gone += await link.purge(queue)
        if delete:
            self._declared.forget(queue)
            await link.delete(queue)
        return gone

    async def cancel(self, message_id: str) -> str:
        try:
            return await self._kept.cancel(message_id)
        except NotFound as error:
            if any(held.cancels for held in await self._held((), cancel=message_id)):
                return "running"
            raise NotFound(f"{error}, or it is a plain message that waits in RabbitMQ, where it cannot be cancelled") from None

    async def preflight(self) -> list[Finding]:
        """Look at RabbitMQ and at what is beside it."""
        link = await self._open("looks around")
        try:
            found = [finding async for finding in preflight(link, self.address, await self._kept.queues(), self._deadline)]
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


def _sum(parts: Sequence[Part]) -> Part:
    return Part(sum(part.out for part in parts), sum(part.waiting for part in parts))


async def _ready(link: Link, queue: str) -> int:
    try:
        return (await link.queue(queue, passive=True))[1]
    except NotFound:
        return 0  # somebody deleted it


def _said(publication: Publication) -> Said:
    return publication.exchange, publication.routing_key, publication.envelope.id
