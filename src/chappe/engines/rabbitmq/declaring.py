"""What an application declares, said to RabbitMQ: at its start, and again when RabbitMQ or another program began anew."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import ARCHIVE, QUORUM
from chappe.errors import NotFound, TopologyConflict
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Queue, Topology, type_of

log = logging.getLogger("chappe.rabbitmq")

_OTHERWISE: Final = re.compile(
    r"inequivalent arg '(.+?)' for (?:queue|exchange) '.*' in vhost '.*': received (.+) but current is (.+?) \(406\)"
)


class Declared:
    """Everything that one process declared."""

    def __init__(self) -> None:
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._temporary: dict[str, Queue] = {}

    def add(self, topology: Topology) -> None:
        """Remember what was declared."""
        self._exchanges |= {exchange.name: exchange for exchange in topology.exchanges}
        self._queues |= {queue.name: queue for queue in topology.queues}

    def lend(self, temporary: Sequence[Queue]) -> None:
        """Remember how the types of temporary queues are found: their consumers make them."""
        self._temporary |= {queue.name: queue for queue in temporary}

    def forget(self, queue: str) -> None:
        """Note that a queue was deleted on purpose."""
        self._queues.pop(queue, None)

    def all(self) -> Topology:
        """Return all of it."""
        return Topology(tuple(self._exchanges.values()), tuple(self._queues.values()))

    def fragile(self) -> Topology:
        """Return exchanges that may be gone and back at any time, and their bindings; those of temporary queues are their consumers'."""
        exchanges = {name: exchange for name, exchange in self._exchanges.items() if not exchange.is_lasting}
        bound = [
            Queue(queue.name, bindings, passive=True)
            for queue in self._queues.values()
            if (bindings := tuple(b for b in queue.bindings if b.exchange in exchanges))
        ]
        lent = any(binding.exchange in exchanges for queue in self._temporary.values() for binding in queue.bindings)
        return Topology(tuple(exchanges.values()), tuple(bound)) if bound or lent else Topology()

    def type_of(self, queue: str, exchange: str, routing_key: str) -> str:
        """Return the type of a message that has none: that of its binding, of its queue, or else how it was addressed."""
        known = self._queues.get(queue) or self._temporary.get(queue)
        return (type_of(known, self._exchanges, exchange, routing_key) if known else "") or (routing_key if exchange else queue) or queue


async def declare_exchanges(link: Link, exchanges: Sequence[Exchange]) -> None:
    """Make exchanges exist, and look for those of other programs.

    Raises `TopologyConflict`, naming both declarations, or `NotFound` for what another program has not made.
    """
    for exchange in exchanges:
        await _declare_exchange(link, exchange)


async def declare(link: Link, topology: Topology) -> None:
    """Make the archive, queues and bindings exist, and look for queues of other programs; see `declare_exchanges`."""
    for step in _steps(link, topology):
        await step


async def declare_again(link: Link, topology: Topology) -> None:
    """Do all of it as far as it goes: what is missing or in the way is said in the log, and does not keep the rest away."""
    for exchange in topology.exchanges:
        await _tried(_declare_exchange(link, exchange))
    for step in _steps(link, topology):
        await _tried(step)


def _steps(link: Link, topology: Topology) -> Iterator[Coroutine[Any, Any, None]]:
    """Return what is to be done one after the other when the exchanges exist."""
    archived = [exchange for exchange in topology.exchanges if exchange.archive]
    if archived:
        yield _declare_archive(link, max(exchange.archive for exchange in archived))
    for exchange in archived:
        yield link.bind(ARCHIVE, exchange.name, "#")
    for queue in topology.queues:
        yield _declare_queue(link, queue)
        for binding in queue.bindings:
            yield link.bind(queue.name, binding.exchange, binding.key)


async def _tried(doing: Coroutine[Any, Any, None]) -> None:
    try:
        await doing
    except (NotFound, TopologyConflict) as error:
        log.warning("not declared again: %s", error)


async def _declare_exchange(link: Link, exchange: Exchange) -> None:
    what = f'exchange "{exchange.name}"'
    async with _explained(what, "this application", passive=exchange.passive):
        if exchange.passive:
            await link.exchange(exchange.name, exchange.kind, passive=True)
        else:
            await link.exchange(
                exchange.name,
                exchange.kind,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
                arguments=exchange.arguments,
            )


async def _declare_queue(link: Link, queue: Queue) -> None:
    kind = "" if queue.passive else f"{queue.kind} "
    async with _explained(f'{kind}queue "{queue.name}"', queue.origin or "this application", passive=queue.passive):
        if queue.passive:
            await link.queue(queue.name, passive=True)
        else:
            arguments = {**(QUORUM if queue.kind == "quorum" else {}), **queue.arguments}
            await link.queue(queue.name, durable=queue.durable, arguments=arguments)


@asynccontextmanager
async def _explained(what: str, ours: str, *, passive: bool) -> AsyncGenerator[None]:
    """Say of a refusal which two declarations there are, and what can be done."""
    try:
        yield
    except NotFound:
        if not passive:
            raise
        raise NotFound(
            f"{what} is declared by {ours} as another program's (passive=True), and RabbitMQ has none: start that program first, "
            f"or have it declared here, without passive"
        ) from None
    except TopologyConflict as error:
        found = _OTHERWISE.search(str(error))
        if found is None:
            raise TopologyConflict(f"{what}, as {ours} declares it, is refused by RabbitMQ: {error}") from None
        argument, received, current = found.groups()
        raise TopologyConflict(
            f"{what} is in RabbitMQ with {argument} {_plain(current)} and is declared by {ours} with {argument} {_plain(received)}: "
            f"declare it as it is, take it as it is with passive=True, or delete it in RabbitMQ if nobody needs it as it is"
        ) from None


def _plain(said: str) -> str:
    """Return RabbitMQ's words for a value without its quotes."""
    return re.sub(r"the value '(.*?)' of type '.*?'", r"\1", said).strip("'")


async def _declare_archive(link: Link, seconds: float) -> None:
    try:
        await link.queue(ARCHIVE, passive=True)
    except NotFound:
        await link.queue(ARCHIVE, arguments={"x-queue-type": "stream", "x-max-age": f"{max(1, round(seconds))}s"})
