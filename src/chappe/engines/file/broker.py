"""The broker and store contracts kept by the file engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from chappe.engines.contract.broker import Ack, Dead, Death, Delivery, Depth, Receipt, Refusal, Retry, Settlement
from chappe.engines.file.client import Client
from chappe.errors import BrokerError, BrokerUnavailable, NotFound, Unconfirmed
from chappe.messages.envelope import Publication
from chappe.messages.finding import Finding
from chappe.messages.topology import Queue, Topology

log = logging.getLogger("chappe.file")

_TRIES: Final = 20
_AGAIN: Final = 0.05  # seconds

_receipts: Final = msgspec.msgpack.Decoder(list[Receipt]).decode
_deliveries: Final = msgspec.msgpack.Decoder(list[Delivery]).decode
_refusals: Final = msgspec.msgpack.Decoder(list[Refusal]).decode
_depth: Final = msgspec.msgpack.Decoder(Depth).decode


class FileBroker(Client):
    """Speaks to the one process that owns the SQLite file, from inside a running event loop."""

    async def declare(self, topology: Topology) -> None:
        await self.call("declare", topology)

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        receipts = await self.call("publish", await self.bodies.aput(publications), decode=_receipts)
        return self.bodies.shown(receipts)

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, prefetch: int, temporary: Sequence[Queue] = ()) -> AsyncGenerator[FileConsumer]:
        for queue in queues:
            await self.depth(queue)
        consumer = FileConsumer(self, queues, prefetch, temporary)
        self.consumers.add(consumer)
        try:
            await consumer.open()
            yield consumer
        finally:
            await consumer.close()
            self.consumers.discard(consumer)

    async def blame(self, death: Death) -> None:
        """Say nothing: the engine reads the tables of dead workers by itself, before it lends their messages again."""

    async def depth(self, queue: str) -> Depth:
        return await self.call("depth", queue, decode=_depth)

    async def purge(self, queue: str, *, delete: bool = False) -> int:
        count, place = 0, None
        while True:
            gone, place = await self.call("purge", queue, delete, place)
            count += gone
            if place is None:
                return count

    async def cancel(self, message_id: str) -> str:
        return await self.call("cancel_message", message_id)

    async def preflight(self) -> list[Finding]:
        return []


class FileConsumer:
    """Receives from the file engine."""

    def __init__(self, client: FileBroker, queues: Sequence[str], prefetch: int, temporary: Sequence[Queue] = ()) -> None:
        self._client = client
        self._temporary = {f"{queue.name}.{uuid4().hex}": queue for queue in temporary}
        self._queues = (*queues, *self._temporary)
        self._prefetch = prefetch
        self._out: dict[int, str] = {}
        self._asked: dict[int, int] = {}
        self._turn = 0
        self._closed = False
        self._told: Callable[[int], None] = lambda _: None

    def on_cancel(self, told: Callable[[int], None]) -> None:
        self._told = told

    def cancelled(self, tag: int) -> None:
        """Hear that somebody cancels a delivery."""
        if tag in self._out:
            self._told(tag)

    def resize(self, prefetch: int) -> None:
        self._prefetch = prefetch

    @property
    def has_temporary(self) -> bool:
        """Whether some of its queues go with this client."""
        return bool(self._temporary)

    async def open(self) -> None:
        """Make the temporary queues; safe to repeat."""
        for name, queue in self._temporary.items():
            await self._client.call("subscribe", Queue(name, queue.bindings, queue.origin))

    async def receive(self, limit: int, wait: float) -> list[Delivery]:
        limit = min(limit, self._prefetch - len(self._out) - sum(self._asked.values()))
        if limit <= 0 or self._closed:
            return []
        queues = (*self._queues[self._turn :], *self._queues[: self._turn])
        self._turn = (self._turn + 1) % len(self._queues)
        future = self._client.call("receive", queues, limit, wait, decode=_deliveries, deadline=wait + self._client.deadline)
        serial = self._client.serial
        self._asked[serial] = limit
        future.add_done_callback(lambda done: self._answered(serial, done))
        try:
            deliveries: list[Delivery] = await self._client.bodies.awhole(await asyncio.shield(future))
        except asyncio.CancelledError:
            self._client.hurry(serial)
            future.add_done_callback(self._return)
            raise
        except NotFound as error:
            if not any(f'"{name}"' in str(error) for name in self._temporary):
                raise
            log.warning("a temporary queue is gone, after a silence of this process or by hand: it is made anew, what came is missed")
            await self.open()
            return []
        if self._temporary:
            deliveries = [self._named(delivery) for delivery in deliveries]
        return [] if self._closed else deliveries

    def _named(self, delivery: Delivery) -> Delivery:
        """Return a delivery with the name of its queue that a temporary one was declared with."""
        queue = self._temporary.get(delivery.queue)
        return delivery if queue is None else replace(delivery, queue=queue.name)

    def _answered(self, serial: int, future: asyncio.Future[list[Delivery]]) -> None:
        del self._asked[serial]
        if not future.cancelled() and future.exception() is None:
            self._out.update((delivery.tag, delivery.queue) for delivery in future.result())
            if self._closed:
                self._return(future)

    def _return(self, future: asyncio.Future[list[Delivery]]) -> None:
        """Return what came for a `receive` that nobody waits for any more."""
        if future.cancelled() or future.exception() is not None:
            return
        back = [delivery.tag for delivery in future.result() if self._out.pop(delivery.tag, None) is not None]
        if back:
            with contextlib.suppress(BrokerUnavailable):
                given = self._client.call("settle", [Retry(tag, 0.0, counted=False) for tag in back])
                given.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def settle(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        held = [s for s in settlements if s.delivery in self._out]
        stale = [
            Refusal(s.delivery, "stale", "this consumer does not hold the delivery") for s in settlements if s.delivery not in self._out
        ]
        if not held:
            return stale
        for settlement in held if self._temporary else ():
            queue = self._temporary.get(self._out[settlement.delivery])
            if queue is not None and isinstance(settlement, Dead):
                log.error('a message is dropped (%s): a temporary queue like "%s" has no dead letters', settlement.reason, queue.name)
        stored = [await self._stored(one) if type(one) is Ack and one.then else one for one in held]
        refusals: list[Refusal] = await self._client.call("settle", stored, decode=_refusals)
        refusals = [replace(r, receipts=tuple(self._client.bodies.shown(r.receipts))) if r.receipts else r for r in refusals]
        kept = {r.delivery for r in refusals if r.why != "stale"}
        for settlement in held:
            if settlement.delivery not in kept:
                self._out.pop(settlement.delivery, None)
        return stale + refusals

    async def _stored(self, settlement: Ack) -> Settlement:
        """Return a settlement whose large bodies are in files."""
        return replace(settlement, then=tuple(await self._client.bodies.aput(settlement.then)))

    def holds(self, delivery: int) -> bool:
        return delivery in self._out

    def stop(self) -> None:
        """Have a waiting `receive` answer at once."""
        for serial in self._asked:
            self._client.hurry(serial)

    async def close(self) -> None:
        """Return what is out, at once and without counting an attempt."""
        self.stop()
        self._closed = True
        back = [Retry(tag, 0.0, counted=False) for tag in self._out]
        if back:
            try:
                await self.settle(back)
            except (BrokerUnavailable, Unconfirmed):
                self._out.clear()  # the engine does it when it sees the connection closed
        for name in self._temporary:
            if not await self._removed(name):
                break

    async def _removed(self, name: str) -> bool:
        """Remove a temporary queue, and tell whether the engine answers; what it does not hear it does itself, when this client is gone."""
        for _ in range(_TRIES):
            try:
                await self._client.purge(name, delete=True)
            except NotFound:
                break
            except (BrokerUnavailable, Unconfirmed):
                return False
            except BrokerError:  # what came for a `receive` that was given up is on its way back
                await asyncio.sleep(_AGAIN)
            else:
                break
        return True

    def held(self) -> list[tuple[str, int]]:
        """Return the queue and tag of everything that is out."""
        return [(queue, tag) for tag, queue in self._out.items()]

    def lose(self, tags: set[int]) -> None:
        """Hear which deliveries a restarted engine gave to others."""
        for tag in tags:
            self._out.pop(tag, None)
