"""Celery over RabbitMQ: what most people take.

By default it acknowledges a task before it runs; `task_acks_late` makes it at least once, as Chappe is. A send returns as
soon as it is written to the socket; with BENCH_CONFIRMED=1 when RabbitMQ has confirmed it, which is what Chappe's send promises.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from benchmarks import tally
from benchmarks.payload import FIELDS

app = Celery("bench", broker=os.environ["BENCH_AMQP"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": "BENCH_CONFIRMED" in os.environ},
    task_acks_late=True,
    task_default_queue=os.environ["BENCH_QUEUE"],
    task_ignore_result=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
)


@app.task
def noop(_: dict[str, Any]) -> None:
    tally.note()


@app.task
def stamp(_: dict[str, Any], at: float) -> None:
    tally.since(at)


def send() -> None:
    """Send what is drained."""
    noop.delay(FIELDS)


def send_stamped(at: float) -> None:
    """Send what tells how long it took."""
    stamp.delay(FIELDS, at)


def waiting() -> int:
    """Count what nobody took yet."""
    with app.connection_for_read() as connection:
        return connection.default_channel.queue_declare(app.conf.task_default_queue, passive=True).message_count


def forget() -> None:
    """Delete what nobody took."""
    app.control.purge()


def close() -> None:
    """Leave nothing half sent."""
    app.pool.force_close_all()
