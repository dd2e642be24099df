"""Publishing for threads without an event loop: each has a connection, and a loop that runs only while it waits for RabbitMQ.

A synchronous send that goes through another thread's loop costs two changes of thread each way. What is kept beside RabbitMQ is published
by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from chappe.engines.contract.broker import Publisher
from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.kept import is_kept
from chappe.engines.rabbitmq.outlet import Outlet, outgoing
from chappe.errors import BrokerError, BrokerUnavailable, Unroutable
from chappe.messages.envelope import Publication, Receipt
from chappe.messages.topology import Topology, takers

_inherited: Final[list[object]] = []  # what a forked child never touches
_REMEMBERED: Final = 1000  # ways, each an exchange and a routing key
_SILENT: Final = 0.1  # seconds
_POLITE: Final = 2.0  # seconds
_PUMPS: Final = 2  # turns of the loop after such a silence, in which it hears what came meanwhile: above all that the connection is gone


class _Own:
    """What one thread has; it goes with the thread."""

    def __init__(self, address: Address, deadline: float) -> None:
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.outlet = Outlet(address, name="chappe client publishes", deadline=deadline)
        self._said = 0.0
        self._using = threading.RLock()  # what a signal interrupts may be asked to close by the same thread
        self._ended = weakref.finalize(self, _end, self.process, self.loop, self.outlet)

    def run(self, publications: Sequence[Publication]) -> None:
        """Have them stored, and return when they are; what interrupts this thread ends it, and leaves nothing behind."""
        with self._using:
            if not self._ended.alive:
                raise BrokerUnavailable("the application was closed meanwhile, and nothing was sent; send again to have it connect again")
            doing = self.loop.create_task(self._publish(publications))
            try:
                self.loop.run_until_complete(doing)
            except BaseException:
                if not doing.done():
                    doing.cancel()
                    self.outlet.cut()  # what was interrupted may have been reading
                    self.loop.run_until_complete(asyncio.wait([doing]))
                raise

    async def _publish(self, publications: Sequence[Publication]) -> None:
        if self.loop.time() - self._said > _SILENT:
            for _ in range(_PUMPS):
                await asyncio.sleep(0)
        try:
            await self.outlet.publish([outgoing(p) for p in publications], known=True)
        finally:
            self._said = self.loop.time()

    def close(self) -> None:
        """Say nothing more, when what is being said now is answered."""
        if self.process != os.getpid():  # nobody here will ever release the lock that another thread of the parent held
            self._ended()
            return
        with self._using:
            self._ended()


def _end(process: int, loop: asyncio.AbstractEventLoop, outlet: Outlet) -> None:
    if process != os.getpid():  # a forked child: it has the parent's sockets too, and must not say goodbye for it
        _inherited.append((loop, outlet))
        return

    def end() -> None:
        with contextlib.suppress(BrokerError):
            loop.run_until_complete(outlet.close())
        loop.close()

    if loop.is_running() or loop.is_closed():
        return
    if _is_in_a_loop():  # no thread runs two
        ending = threading.Thread(target=end, name="chappe-goodbye", daemon=True)
        ending.start()
        ending.join(_POLITE)
    else:
        end()


class RabbitPublisher:
    """Publishes to queues that this application declared; for all else an event loop is needed."""

    def __init__(
        self, url: str, topology: Callable[[], Topology], is_declared: Callable[[], bool], *, kept: Publisher, deadline: float
    ) -> None:
        """Prepare; `is_declared` says whether the topology was declared, which is done over an event loop.

        What is `kept` beside RabbitMQ is published by another.
        """
        self._address = replace(Address.parse(url), heartbeat=0)  # nobody would send it between two sends
        self._topology = topology
        self._is_declared = is_declared
        self._kept = kept
        self._deadline = deadline
        self._mine = threading.local()
        self._all: weakref.WeakSet[_Own] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._taken: dict[tuple[str, str], bool] = {}

    def takes(self, publications: Sequence[Publication]) -> bool:
        """Tell whether this thread can publish these now."""
        if not self._is_declared():
            self._taken = {}  # what is declared now may take more
            return False
        kept = [is_kept(p) for p in publications]
        if any(kept):
            return all(kept) and self._kept.takes(publications)
        return not _is_in_a_loop() and all(self._is_taken(p.exchange, p.routing_key) for p in publications)

    def _is_taken(self, exchange: str, routing_key: str) -> bool:
        """Tell whether one of our own queues takes it."""
        if (known := self._taken.get((exchange, routing_key))) is not None:
            return known
        topology = self._topology()
        bindings = {queue.name: [(b.exchange, b.key) for b in queue.bindings] for queue in topology.queues}
        try:
            found = takers({e.name: e for e in topology.exchanges}, bindings, exchange, routing_key)
        except Unroutable:
            found = []
        if len(self._taken) < _REMEMBERED:
            self._taken[exchange, routing_key] = bool(found)
        return bool(found)

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        """See `Broker.publish`; it never suspends, so that it can be stepped without an event loop."""
        if is_kept(publications[0]):
            return await self._kept.publish(publications)
        own: _Own | None = getattr(self._mine, "own", None)
        if own is None or own.process != os.getpid():
            own = self._mine.own = _Own(self._address, self._deadline)
            with self._lock:
                self._all.add(own)
        own.run(publications)
        return [Receipt(p.envelope.id) for p in publications]

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for own in list(self._all):
                own.close()
        self._mine = threading.local()
        self._kept.close()


def _is_in_a_loop() -> bool:
    """Tell whether this thread runs an event loop already, as where a coroutine calls a synchronous verb."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
