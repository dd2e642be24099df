"""Carries messages from one engine to another while both are live: what is ready, what is delayed, and what is dead.

A message is published in the new engine under a key of its own, and ends in the old one only after that; so one that is carried twice,
because this process died in between or an answer was lost, is there once. In the old engine it is lent to the mover meanwhile, or, if it
is delayed, still far from being due: nobody else begins it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from chappe.app import App
from chappe.connection import Connection
from chappe.engines.contract.broker import Ack
from chappe.engines.contract.fleet import QueueStatus
from chappe.engines.contract.letters import Exported
from chappe.errors import BrokerError, BrokerUnavailable, InvalidSettings, Unconfirmed, Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import TENANT, Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

Told = Callable[[str], None]

AT_ONCE: Final = 200
SOON: Final = 60.0  # seconds: what is due before is waited for, so that it is not begun here while it is carried
_LENT: Final = 1000  # more than RabbitMQ lends at once for so many that are asked for
_FOREIGN: Final = "foreign-"  # an id by which a message without one is known: twins have the same
_MOVES: Final = "moved"
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.5
_EMPTY: Final = 0.2  # seconds without a message, after which a queue is looked at again later


class Moved(Struct):
    """How many messages of a queue were carried, and how many were there already or became part of another."""

    queue: str
    ready: int = 0
    delayed: int = 0
    dead: int = 0
    known: int = 0


class Mover:
    """Carries queues from one connection to the engine of an application."""

    def __init__(self, source: Connection, target: App, *, soon: float = SOON) -> None:
        """Prepare; a message is carried by `target`, which knows how those that are pending are merged."""
        self._source = source
        self._target = target
        self._soon = soon
        self._went_at = 0.0  # when something was carried, or there was nothing to carry

    async def move(self, queues: Sequence[str] = (), tell: Told = lambda _: None) -> list[Moved]:
        """Carry until nothing waits, runs or is dead in these queues, or in all; returns what was carried.

        Raises `BrokerUnavailable` or `Unconfirmed` when one of the engines was away for long: begun again, it goes on.
        """
        overview, now = await self._source.store.overview(), asyncio.get_running_loop().time
        found = [q for q in overview.queues if (not queues or q.name in queues) and not q.temporary]
        await self._refuse_the_same()
        await self._declare(overview.exchanges, found)
        moved = {queue.name: Moved(queue.name) for queue in found}
        self._went_at = now()
        while True:
            try:
                for one in moved.values():
                    await self._dead(one)
                    await self._delayed(one)
                    await self._ready(one)
                left = [q for q in (await self._source.store.overview()).queues if q.name in moved]
            except (BrokerUnavailable, Unconfirmed):  # what is carried again is there once
                if now() - self._went_at > _PATIENCE:
                    raise
            else:
                self._went_at = now()
                waiting = {q.name: q.ready + q.running + q.delayed + q.dead for q in left}
                if not any(waiting.values()):
                    return list(moved.values())
                tell(", ".join(f"{name}: {count} left" for name, count in waiting.items() if count))
            await asyncio.sleep(_PAUSE)

    async def _refuse_the_same(self) -> None:
        """Raise `InvalidSettings` if both are one engine, or share a broker or a store: what is carried would be taken for its copy."""
        probe = f"chappe.move.{uuid4().hex}"
        target = await self._target.connection()
        await target.broker.declare(Topology(queues=(bind(probe),)))
        try:
            queues = (await self._source.store.overview()).queues
            if any(queue.name == probe for queue in queues) or await self._reaches(probe):
                raise InvalidSettings("the messages are there already: the new engine has the same broker or the same store as the old one")
        finally:
            await target.broker.purge(probe, delete=True)

    async def _reaches(self, queue: str) -> bool:
        """Tell whether what is sent to the old engine comes to a queue that only the new one declared."""
        try:
            await self._source.broker.publish([Publication(Envelope(queue, "chappe.move", b"{}"), queue)])
        except Unroutable:
            return False
        return True

    async def _declare(self, exchanges: Sequence[Exchange], queues: Sequence[QueueStatus]) -> None:
        """Declare what the target's application does not declare by itself, and better."""
        connection = await self._target.connection()
        own = self._target.registry.topology()
        named = {exchange.name for exchange in own.exchanges}, {queue.name for queue in own.queues}
        topology = Topology(
            tuple(Exchange(e.name, e.kind, e.archive, e.archive_bytes) for e in exchanges if e.name not in named[0]),
            tuple(bind(q.name, *(":".join(pair) for pair in q.bindings), origin=q.origin) for q in queues if q.name not in named[1]),
        )
        await connection.broker.declare(topology)

    async def _ready(self, moved: Moved) -> None:
        """Carry what can be lent, in its order."""
        store = self._source.store
        async with self._source.broker.consume([moved.queue], prefetch=AT_ONCE) as consumer:
            while deliveries := await consumer.receive(AT_ONCE, _EMPTY):
                details = {one.envelope.id: one for one in await store.export_messages(moved.queue, "running", limit=_LENT)}
                plain = [Exported(one.tag, one.envelope, one.attempt - 1) for one in deliveries]
                await self._publish(moved, [details.get(one.envelope.id, one) for one in plain])
                refusals = await consumer.settle([Ack(one.tag) for one in deliveries if consumer.holds(one.tag)])
                if wrong := [refusal for refusal in refusals if refusal.why != "stale"]:
                    raise BrokerError(f"the old engine does not end what was carried: {wrong[0].text}")
                moved.ready += len(deliveries)

    async def _delayed(self, moved: Moved) -> None:
        """Carry what is not due soon; the rest is carried when it is ready."""
        store = self._source.store
        while found := await store.export_messages(moved.queue, "delayed", later=self._soon, limit=AT_ONCE):
            await self._publish(moved, found)
            moved.delayed += len(await store.delete_delayed(moved.queue, [one.place for one in found]))

    async def _dead(self, moved: Moved) -> None:
        """Carry dead letters with their reasons and histories."""
        source, target = self._source.store, (await self._target.connection()).store
        while found := await source.export_messages(moved.queue, "dead", limit=AT_ONCE):
            await target.import_letters(moved.queue, found)
            await source.discard_letters([one.place for one in found])
            moved.dead += len(found)
            self._went_at = asyncio.get_running_loop().time()

    async def _publish(self, moved: Moved, found: Sequence[Exported]) -> None:
        receipts = await self._target.publish_all([_publication(moved.queue, one) for one in found])
        moved.known += sum(1 for receipt in receipts if receipt.outcome != "stored")
        self._went_at = asyncio.get_running_loop().time()


def _publication(queue: str, one: Exported) -> Publication:
    """Return the publication of a message that goes straight to the queue in which it was; its attempts begin anew.

    Its key counts its moves: one that went there and came back is not taken for what it was.
    """
    moves = one.envelope.headers.get(_MOVES, "0")
    number = int(moves) + 1 if moves.isdecimal() else 1
    envelope = replace(one.envelope, headers={**one.envelope.headers, _MOVES: str(number)})
    merges = one.merges and one.key is not None
    options = Options(
        key=one.key, merges=merges, unique=one.unique, unique_for=one.unique_for, tracked=one.tracked,
        idempotency_key=None if envelope.id.startswith(_FOREIGN) else f"moved:{number}:{queue}:{envelope.id}",
        fingerprint="moved", merged_ids=(envelope.id,) if merges else (),
        tenant=envelope.headers.get(TENANT),
    )  # fmt: skip
    return Publication(envelope, queue, "", one.priority, one.delay or 0.0, options)
