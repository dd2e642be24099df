"""What RabbitMQ leaves to anybody: `python -m benchmarks.peers.limit.amqp HOW '{"count": 1000}'` over a plain blocking socket.

A message is made of bytes that were made before, and of what comes back nothing is read but what ends a wait. It is as durable as
Chappe's own: a quorum queue, persistent messages, confirmations, acknowledgements.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from pika import BasicProperties, frame, spec

from benchmarks import cue, tally
from benchmarks.payload import FIELDS

_MUCH: Final = 1 << 18
_HEAD: Final = struct.Struct(">BHI")
_TIME: Final = struct.Struct(">d")
_METHOD, _BODY = 1, 3
_ACK, _DELIVER = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x3c"
_SHAPE: Final = BasicProperties(
    content_type="application/json", delivery_mode=2, message_id="01a2016d-573b-71e7-b99a-f61f52c8b209", type="noop", timestamp=1,
    headers={"chappe-timestamp": "1795319845.773004", "chappe-published": "1795319845.773"},
)  # fmt: skip


class Socket:
    """A connection with one channel."""

    def __init__(self, url: str, queue: str) -> None:
        address = urlsplit(url)
        self._queue = queue
        self._socket = socket.create_connection((address.hostname, address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._come = b""
        self.sent = 0
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._frame()
        response = b"\0" + (address.username or "").encode() + b"\0" + (address.password or "").encode()
        self._say(0, spec.Connection.StartOk({}, "PLAIN", response, "en_US"))
        self._frame()
        self._say(0, spec.Connection.TuneOk(2047, 131072, 0))
        self._ask(0, spec.Connection.Open("/"))
        self._ask(1, spec.Channel.Open())
        self._ask(1, spec.Queue.Declare(queue=queue, durable=True, arguments={"x-queue-type": "quorum"}))

    def _say(self, channel: int, method: Any) -> None:
        self._socket.sendall(_marshal(channel, method))

    def _ask(self, channel: int, method: Any) -> None:
        self._say(channel, method)
        self._frame()

    def _frame(self) -> bytes:
        while True:
            if len(self._come) >= _HEAD.size:
                end = _HEAD.unpack_from(self._come)[2] + _HEAD.size + 1
                if len(self._come) >= end:
                    found, self._come = self._come[:end], self._come[end:]
                    return found
            self._come += self._socket.recv(_MUCH)

    def confirm(self) -> None:
        """Have all that is published confirmed."""
        self._ask(1, spec.Confirm.Select())

    def message(self, body: bytes) -> bytes:
        """Return the bytes of a publication."""
        publish = _marshal(1, spec.Basic.Publish(exchange="", routing_key=self._queue, mandatory=True))
        return publish + frame.Header(1, len(body), _SHAPE).marshal() + frame.Body(1, body).marshal()

    def publish(self, messages: bytes, count: int) -> None:
        """Send so many messages, and return when all are confirmed."""
        self._socket.sendall(messages)
        self.sent += count
        confirmed = 0
        while confirmed < self.sent:  # of one queue all are confirmed in their order
            come = self._frame()
            if come[0] == _METHOD and come[7:11] == _ACK:
                confirmed = struct.unpack_from(">Q", come, 11)[0]

    def consume(self, handle: Callable[[bytes], None]) -> None:
        """Return each body on and acknowledge it, for ever."""
        self._ask(1, spec.Basic.Qos(0, 10, False))
        self._ask(1, spec.Basic.Consume(queue=self._queue))
        tag = 0
        while True:
            come = self._frame()
            if come[0] == _METHOD and come[7:11] == _DELIVER:
                tag = struct.unpack_from(">Q", come, 12 + come[11])[0]
            elif come[0] == _BODY:
                handle(come[7:-1])
                self._say(1, spec.Basic.Ack(tag))


def _marshal(channel: int, method: Any) -> bytes:
    return frame.Method(channel, method).marshal()


def main() -> None:
    """Send so many in one way, or consume until this process is ended."""
    how, sizes = sys.argv[1], json.loads(sys.argv[2])
    connection = Socket(os.environ["BENCH_AMQP"], os.environ["BENCH_QUEUE"])
    if how == "consume":
        cue.tell("ready")
        connection.consume(lambda body: tally.since(_TIME.unpack_from(body)[0]))
    connection.confirm()
    body = json.dumps(FIELDS).encode()
    at_once = 100 if how == "hundreds" else 1
    messages = connection.message(body) * at_once
    connection.publish(connection.message(_TIME.pack(0.0) + body[_TIME.size :]), 1)
    cue.wait()
    watch = cue.Watch()
    if how == "paced":
        cue.paced(sizes["count"], lambda at: connection.publish(connection.message(_TIME.pack(at) + body[_TIME.size :]), 1))
    else:
        for _ in range(sizes["count"] // at_once):
            connection.publish(messages, at_once)
    watch.tell()


if __name__ == "__main__":
    main()
