"""Dramatiq over RabbitMQ: the fastest of the peers with a server, and at least once by default.

A send returns as soon as it is written to the socket. With BENCH_CONFIRMED=1 it returns when RabbitMQ has confirmed it,
which is what Chappe's send promises.
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks import tally
from benchmarks.payload import FIELDS

QUEUE = os.environ["BENCH_QUEUE"]

broker = RabbitmqBroker(url=os.environ["BENCH_AMQP"], confirm_delivery="BENCH_CONFIRMED" in os.environ)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def noop(_: dict[str, Any]) -> None:
    tally.note()


@dramatiq.actor(queue_name=QUEUE)
def stamp(_: dict[str, Any], at: float) -> None:
    tally.since(at)


def send() -> None:
    """Send what is drained."""
    noop.send(FIELDS)


def send_stamped(at: float) -> None:
    """Send what tells how long it took."""
    stamp.send(FIELDS, at)


def waiting() -> int:
    """Count what nobody took yet."""
    return broker.get_queue_message_counts(QUEUE)[0]


def forget() -> None:
    """Delete what nobody took."""
    broker.flush(QUEUE)


def close() -> None:
    """Leave nothing half sent."""
    broker.close()
