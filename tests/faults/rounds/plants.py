"""Faults of ours that the rounds must see: put into a process by the application, where ROUNDS_PLANT names one."""

from __future__ import annotations

# They are put where nothing of the public can reach.
# pyright: reportPrivateUsage=false
import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from chappe.engines.rabbitmq.consuming import RabbitConsumer
from chappe.engines.rabbitmq.outlet import Outlet


def _forgets() -> None:
    """A consumer acknowledges what it lost with its connection, as one without acknowledgements would."""
    came = RabbitConsumer._came

    def without(self: RabbitConsumer, link: Any, lane: Any, generation: int, message: Any) -> None:
        if message.redelivered:
            link.ack(message.tag)
        else:
            came(self, link, lane, generation, message)

    RabbitConsumer._came = without


def _is_deaf() -> None:
    """A consumer does not subscribe again on a connection that it opened again, and believes that it does."""
    resubscribe = RabbitConsumer._resubscribe
    first: dict[int, object] = {}

    async def once(self: RabbitConsumer, link: Any, lane: Any) -> None:
        if first.setdefault(id(self), link) is link:
            await resubscribe(self, link, lane)
        else:
            lane.begin(10_000)
            lane.subscription = "none"

    RabbitConsumer._resubscribe = once


def _hangs() -> None:
    """A send waits for its confirmation for as long as it takes."""
    publish = Outlet.publish_each

    async def patient(self: Outlet, messages: Any, *, known: bool) -> Any:
        self._deadline = 600.0
        if self._link is not None:
            self._link._deadline = 600.0
        return await publish(self, messages, known=known)

    Outlet.publish_each = patient


def _confirms_early() -> None:
    """A send returns before RabbitMQ has confirmed it."""

    async def at_once(self: Outlet, messages: Any, *, known: bool) -> Any:
        link = await self.link(asyncio.get_running_loop().time() + self._deadline)
        link.publish_all(messages)
        link.flush()
        return [None] * len(messages)

    Outlet.publish_each = at_once


PLANTS: Mapping[str, tuple[Callable[[], None], str, str]] = {
    "forgets": (_forgets, "lost", "rabbitmq killed"),
    "is deaf": (_is_deaf, "late", "connections cut"),
    "hangs": (_hangs, "hanging", "connections half-open"),
    "confirms early": (_confirms_early, "lost", "connections half-open"),
}
"""Each plant with the fault that must be seen of it, and in which round."""
