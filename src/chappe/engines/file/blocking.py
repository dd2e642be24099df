"""A client of the engine for threads without an event loop: one request at a time, over a socket of each thread's own.

Beside `client.py`, because a synchronous send that goes through another thread's event loop costs two more changes of thread
each way (docs/decisions/performance.md). It publishes only, and only where an engine runs.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Raw

from chappe.clocks import steady
from chappe.engines.file.bodies import LARGE, Bodies
from chappe.engines.file.client import DEADLINE, decode_plain
from chappe.engines.file.owner import is_of_this_user, socket_path
from chappe.engines.file.wire import LARGEST_FRAME, PROTOCOL, UNREADABLE, Answer, Frames, decode_answer, encode, error_of, frame
from chappe.errors import BrokerError, BrokerUnavailable, Rejected, Unconfirmed
from chappe.messages.envelope import Publication, Receipt
from chappe.messages.topology import Topology

_RETRY: Final = 0.05
_AT_ONCE: Final = 1 << 14
_receipts: Final = msgspec.msgpack.Decoder(list[Receipt]).decode


class FilePublisher:
    """Publishes for any number of threads."""

    def __init__(self, path: Path, topology: Callable[[], Topology], *, deadline: float = DEADLINE, large_body: int = LARGE) -> None:
        """Prepare; `topology` is declared before the first publication, `deadline` is in seconds."""
        self._path = path
        self._bodies = Bodies(path, large_body)
        self._topology = topology
        self._deadline = deadline
        self._mine = threading.local()
        self._declared: Topology | None = None

    def takes(self, publications: Sequence[Publication]) -> bool:
        """Tell whether this thread is connected to an engine, connecting it if need be; raises what the topology does."""
        link: _Link | None = getattr(self._mine, "link", None)
        is_open = link is not None and link.is_alive()
        if is_open and self._declared is self._topology():
            return True
        link, until = link if link is not None and is_open else _Link(self._path), steady() + self._deadline
        try:
            if not is_open:
                link.open(until)
            if self._declared is not (topology := self._topology()):
                link.ask("declare", (topology,), until)
                self._declared = topology
        except TimeoutError:
            raise BrokerUnavailable(f'the engine of {self._path} did not answer in time; is "chappe run" up?') from None
        except (OSError, EOFError):
            return False
        except UNREADABLE as error:
            raise BrokerError(f"the answer of the engine cannot be read: {error}") from None
        self._mine.link = link
        return True

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        """Publish after `takes`; it never suspends, so that it can be stepped without an event loop.

        Raises what the engine refuses with, `Unconfirmed` or `BrokerUnavailable` when the deadline is over.
        """
        return self._bodies.shown(_receipts(self._publish(self._bodies.put(publications))))

    def _publish(self, publications: Sequence[Publication]) -> Raw:
        link: _Link = self._mine.link
        until = steady() + self._deadline
        serial, body = link.request("publish", (publications,))
        try:
            try:
                return link.exchange(serial, body, until)
            except (OSError, EOFError):
                return self._repeat(link, serial, body, publications, until)
        except UNREADABLE as error:
            link.close()
            raise BrokerError(f"the answer of the engine cannot be read: {error}") from None
        except BaseException:
            if not link.whole:
                link.close()  # whoever interrupted us: what comes next over this socket is not ours
            raise

    def _repeat(self, link: _Link, serial: int, body: bytes, publications: Sequence[Publication], until: float) -> Raw:
        """Find out over a new connection whether a publication was stored, and say it again if not."""
        while steady() < until:
            try:
                stored, refused = link.open(until)
                if serial > stored or serial in refused:
                    return link.exchange(serial, body, until)
            except (OSError, EOFError):
                time.sleep(_RETRY)
                continue
            if any(p.options is not None for p in publications):
                raise Unconfirmed("the engine was restarted before it answered; send again with an idempotency key")
            return Raw(encode([(p.envelope.id,) for p in publications]))
        raise Unconfirmed('no answer to "publish" within its deadline; it may be stored or not')

    def close(self) -> None:
        """Close the sockets of all threads, each when nothing is under way over it."""
        self._mine = threading.local()


class _Link:
    """The socket of one thread, in the process that opened it.

    The socket never waits: Python would ask it first each time whether it would have to, which costs four more system calls a message.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._name = f"{socket.gethostname()}:{self._pid}:{random.getrandbits(32):08x}"
        self._serial = 0
        self._socket: socket.socket | None = None
        self._waiting = select.poll()
        self._frames = Frames()
        self.whole = True

    def open(self, until: float) -> tuple[int, list[int]]:
        """Connect and say hello; give the last request that was stored and those that were refused with it."""
        self.close()
        self._frames = Frames()
        self._socket = connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(max(0.01, until - steady()))
        connected.connect(str(socket_path(self._path)))
        connected.setblocking(False)
        self._waiting = select.poll()
        self._waiting.register(connected, select.POLLIN)
        if not is_of_this_user(connected):
            raise BrokerUnavailable(f"{socket_path(self._path)} is held by another user")
        welcome: dict[str, Any] = decode_plain(self.ask("hello", ({"protocol": PROTOCOL, "name": self._name},), until))
        return int(welcome["stored"]), list(welcome["refused"])

    def is_alive(self) -> bool:
        """Tell whether the connection is of this process and not closed by the engine."""
        if self._socket is None or self._pid != os.getpid():
            return False
        if not self._waiting.poll(0):
            return True
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    def ask(self, verb: str, arguments: tuple[Any, ...], until: float) -> Raw:
        """Say a request and return its answer."""
        return self.exchange(*self.request(verb, arguments), until)

    def request(self, verb: str, arguments: tuple[Any, ...]) -> tuple[int, bytes]:
        """Return a request its number and its bytes."""
        self._serial += 1
        body = frame((self._serial, verb, arguments))
        if len(body) > LARGEST_FRAME:
            raise Rejected(f"{len(body)} bytes are more than the {LARGEST_FRAME} that can be sent at once; send fewer or smaller messages")
        return self._serial, body

    def exchange(self, serial: int, body: bytes, until: float) -> Raw:
        """Send and wait for the answer; raises the refusal, `OSError` or `EOFError` when the connection is lost."""
        connected = self._socket
        if connected is None:
            raise EOFError
        self.whole = False
        try:
            sent = connected.send(body)
        except BlockingIOError:
            sent = 0
        if sent < len(body):
            self._send_rest(connected, memoryview(body)[sent:], until)
        answer = self._read(connected, serial, until)
        self.whole = True
        if answer.failure is not None:
            raise error_of(answer.failure)
        return answer.value

    def _send_rest(self, connected: socket.socket, body: memoryview, until: float) -> None:
        """Send what did not fit at once, as the engine makes room for it."""
        try:
            connected.settimeout(max(0.001, until - steady()))
            connected.sendall(body)
        finally:
            connected.setblocking(False)

    def _read(self, connected: socket.socket, serial: int, until: float) -> Answer:
        while True:
            if not self._waiting.poll(max(1.0, 1000.0 * (until - steady()))):
                raise TimeoutError
            data = connected.recv(_AT_ONCE)
            if not data:
                raise EOFError
            answers = [decode_answer(body) for body in self._frames.feed(data)]
            for answer in answers:
                if answer.serial == serial:
                    return answer
            if steady() >= until:
                raise TimeoutError

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __del__(self) -> None:
        self.close()
