"""One message sent over a link, and what becomes of it."""

from __future__ import annotations

import asyncio

from pika import BasicProperties

from chappe.engines.rabbitmq.confirms import Outgoing
from chappe.engines.rabbitmq.link import Link


def publish(link: Link, exchange: str, routing_key: str, body: bytes, properties: BasicProperties) -> asyncio.Future[None]:
    """Send a message; the future ends when RabbitMQ has confirmed it, and raises what it was refused with."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(outcomes: asyncio.Future[list[Exception | None]]) -> None:
        if future.done():
            return
        if (error := outcomes.result()[0]) is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # who gave up waiting has no use for it

    outcomes = link.publish([Outgoing(exchange, routing_key, body, b"".join(properties.encode()))])
    if outcomes.done():
        answered(outcomes)
    else:
        outcomes.add_done_callback(answered)
    return future
