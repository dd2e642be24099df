"""The broker and store contracts kept by the embedded engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from noria.brokers.contract import Ack, Dead, Delivery, Depth, Receipt, Refusal, Retry, Settlement
from noria.engine.client import Client
from noria.engine.server import Engine
from noria.engine.wire import posted
from noria.errors import BrokerUnavailable, Unconfirmed
from noria.messages.envelope import Envelope, Publication
from noria.messages.topology import Topology

_receipts: Final = msgspec.msgpack.Decoder(list[Receipt]).decode
_deliveries: Final = msgspec.msgpack.Decoder(list[Delivery]).decode
_refusals: Final = msgspec.msgpack.Decoder(list[Refusal]).decode
_depth: Final = msgspec.msgpack.Decoder(Depth).decode


class EmbeddedBroker:
    """Speaks to the one process that owns the SQLite file."""

    def __init__(self, path: Path, *, role: str = "client", alone: bool = True, engine: Engine | None = None, deadline: float = 5.0) -> None:
        """Prepare a broker inside a running event loop; see `noria.engine.client.Client`."""
        self.client = Client(path, role=role, alone=alone, engine=engine, deadline=deadline)

    async def close(self) -> None:
        """Close the connection; what consumers held is ready again."""
        await self.client.close()

    async def declare(self, topology: Topology) -> None:
        await self.client.call("declare", topology)

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        return await self.client.call("publish", posted(publications), decode=_receipts)

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, prefetch: int) -> AsyncIterator[EmbeddedConsumer]:
        for queue in queues:
            await self.depth(queue)
        consumer = EmbeddedConsumer(self.client, tuple(queues), prefetch)
        try:
            yield consumer
        finally:
            await consumer.close()

    async def depth(self, queue: str) -> Depth:
        return await self.client.call("depth", queue, decode=_depth)

    async def purge(self, queue: str, *, delete: bool = False) -> int:
        return await self.client.call("purge", queue, delete)

    async def peek(self, queue: str, state: str = "ready", limit: int = 20) -> list[Delivery]:
        """Show messages of a queue without lending them: ready, running or delayed."""
        rows = await self.client.call("peek", queue, state, limit, decode=_peeked)
        return [Delivery(identity, queue, attempt + 1, envelope) for identity, attempt, _, envelope in rows]


class EmbeddedConsumer:
    """Receives from the embedded engine; `on_lost` hears of deliveries that a restarted engine took away."""

    def __init__(self, client: Client, queues: tuple[str, ...], prefetch: int) -> None:
        self._client = client
        self._queues = queues
        self._prefetch = prefetch
        self._out: dict[int, str] = {}
        self._serials: set[int] = set()
        self._closed = False
        client.held = self._held
        client.on_lost = self._lost
        self.lost: set[int] = set()

    def resize(self, prefetch: int) -> None:
        self._prefetch = prefetch

    async def receive(self, limit: int, wait: float) -> list[Delivery]:
        limit = min(limit, self._prefetch - len(self._out))
        if limit <= 0 or self._closed:
            return []
        future = self._client.call("receive", self._queues, limit, wait, decode=_deliveries, deadline=wait + self._client.deadline)
        serial = self._client.serial
        self._serials.add(serial)
        try:
            deliveries: list[Delivery] = await future
        finally:
            self._serials.discard(serial)
        for delivery in deliveries:
            self._out[delivery.tag] = delivery.queue
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        try:
            refusals: list[Refusal] = await self._client.call("settle", [_closed(s) for s in settlements], decode=_refusals)
        except Unconfirmed:
            for settlement in settlements:
                self._out.pop(settlement.delivery, None)
            raise
        kept = {r.delivery for r in refusals if r.why != "stale"}
        for settlement in settlements:
            if settlement.delivery not in kept:
                self._out.pop(settlement.delivery, None)
        return refusals

    def stop(self) -> None:
        """Have a waiting `receive` answer at once."""
        for serial in self._serials:
            self._client.cancel(serial)

    async def close(self) -> None:
        """Give back what is out, at once and without counting an attempt."""
        self.stop()
        self._closed = True
        back = [Retry(tag, 0.0, counted=False) for tag in self._out]
        if back:
            try:
                await self.settle(back)
            except (BrokerUnavailable, Unconfirmed):
                self._out.clear()  # the engine does it when it sees the connection closed
        self._client.held = tuple

    def _held(self) -> list[tuple[str, int]]:
        return [(queue, tag) for tag, queue in self._out.items()]

    def _lost(self, tags: set[int]) -> None:
        for tag in tags:
            self._out.pop(tag, None)
        self.lost |= tags


def _closed(settlement: Settlement) -> tuple[Any, ...]:
    match settlement:
        case Ack(tag, then, result, marked):
            return ("ack", tag, posted(then), result, marked)
        case Retry(tag, after, counted, error, note):
            return ("retry", tag, after, counted, error, note)
        case Dead(tag, reason, error):
            return ("dead", tag, reason, error)


_peeked: Final = msgspec.msgpack.Decoder(list[tuple[int, int, float | None, Envelope]]).decode
