"""What is kept for later, or with options, and goes through an exchange: published when it is ready, for RabbitMQ to route and archive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from chappe.engines.contract.broker import Ack, Consumer, Dead, Delivery, Retry, Settlement
from chappe.engines.contract.stray import unwrapped
from chappe.engines.rabbitmq.confirms import Outgoing
from chappe.engines.rabbitmq.outlet import Outlet
from chappe.engines.rabbitmq.properties import COPIES, properties_of
from chappe.engines.rabbitmq.tasks import Tasks
from chappe.errors import BrokerError, NotFound, Rejected, Unroutable

log = logging.getLogger("chappe.rabbitmq")

_AT_ONCE: Final = 200
_WAIT: Final = 60.0
_AGAIN: Final = 1.0


class Relay:
    """Publishes what waits in the relay's queue, in its order, from when it is begun until it is closed."""

    def __init__(self, consume: Callable[[], AbstractAsyncContextManager[Consumer]], outlet: Outlet) -> None:
        """Prepare; the outlet is for nobody else: an exchange that is gone ends its connection, and what others wait for on it."""
        self._consume = consume
        self._outlet = outlet
        self._tasks = Tasks("relaying")
        self._relays = False

    def begin(self) -> None:
        """Publish from now on."""
        if not self._relays:
            self._relays = True
            self._tasks.begin(self._relay())

    async def close(self) -> None:
        """End."""
        await self._tasks.close()
        await self._outlet.close()

    async def _relay(self) -> None:
        while True:
            try:
                async with self._consume() as consumer:
                    while deliveries := await consumer.receive(_AT_ONCE, _WAIT):
                        await consumer.settle(await self._published(deliveries))
            except BrokerError as error:
                log.warning("what was kept for an exchange cannot be published now (%s); trying again", error)
                await asyncio.sleep(_AGAIN)
            except Exception:  # whatever it is, others wait for it
                log.exception("what was kept for an exchange cannot be published now; trying again")
                await asyncio.sleep(_AGAIN)

    async def _published(self, deliveries: list[Delivery]) -> list[Settlement]:
        ready: list[tuple[Delivery, Outgoing]] = []
        settlements: list[Settlement] = []
        for delivery in deliveries:
            p = unwrapped(delivery.envelope.body)
            try:
                properties = properties_of(p.envelope, {COPIES: "1"})
            except Rejected as error:
                settlements.append(Dead(delivery.tag, "unroutable", str(error)))
            else:
                ready.append((delivery, Outgoing(p.exchange, p.routing_key, p.envelope.body, properties)))
        outcomes: list[Exception | None]
        try:
            outcomes = await self._outlet.publish_each([outgoing for _, outgoing in ready], known=False) if ready else []
        except BrokerError as error:
            outcomes = [error] * len(ready)
        return settlements + [_settled(delivery, outcome) for (delivery, _), outcome in zip(ready, outcomes, strict=True)]


def _settled(delivery: Delivery, outcome: Exception | None) -> Settlement:
    if outcome is None or isinstance(outcome, Unroutable):  # nobody else is bound: our own queues have theirs
        return Ack(delivery.tag)
    if isinstance(outcome, Rejected) and not isinstance(outcome, NotFound):
        return Dead(delivery.tag, "unroutable", str(outcome))
    return Retry(delivery.tag, _AGAIN, counted=False)
