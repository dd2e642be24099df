"""pika's blocking connection: what a program does that wants each message confirmed by a quorum queue before it goes on.

One connection for each thread, because pika's connections are for one thread only.
"""

from __future__ import annotations

import json
import os
import threading

import pika
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks.payload import FIELDS, stamped

QUEUE = os.environ["BENCH_QUEUE"]
_KEPT = pika.BasicProperties(delivery_mode=2, content_type="application/json")
_own = threading.local()
_opened: list[pika.BlockingConnection] = []


def _channel() -> BlockingChannel:
    if not hasattr(_own, "channel"):
        connection = pika.BlockingConnection(pika.URLParameters(os.environ["BENCH_AMQP"]))
        _opened.append(connection)
        _own.channel = connection.channel()
        _own.channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        _own.channel.confirm_delivery()
    return _own.channel


def send() -> None:
    """Send what is drained."""
    _channel().basic_publish("", QUEUE, json.dumps(FIELDS).encode(), _KEPT, mandatory=True)


def send_stamped(at: float) -> None:
    """Send what tells how long it took."""
    _channel().basic_publish("", QUEUE, json.dumps(stamped(at)).encode(), _KEPT, mandatory=True)


def waiting() -> int:
    """Count what nobody took yet."""
    return _channel().queue_declare(QUEUE, passive=True).method.message_count


def forget() -> None:
    """Delete what nobody took."""
    _channel().queue_delete(QUEUE)


def close() -> None:
    """Leave nothing half sent."""
    for connection in _opened:
        connection.close()
