"""One client as the engine sees it: what it said of itself, what it waits for, and the answers on their way to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from chappe.bounds import Number
from chappe.engines.file.dispatch import Receiver
from chappe.engines.file.queues import Session
from chappe.engines.file.wire import LARGEST_FRAME, Request, failure_of, frame
from chappe.errors import BrokerError, ChappeError


class BrokenProtocol(BrokerError):
    """What no client says: it is refused, and who said it is dropped."""


class Hello(msgspec.Struct):
    """How a client presents itself; `held` are the (queue, tag) it had before its connection was cut."""

    protocol: int
    name: str
    role: str = "client"
    info: dict[str, Any] = {}
    held: list[tuple[str, Number]] = []


class Connection:
    """One client's side of the engine: a session, and the way to answer it."""

    def __init__(self, send: Callable[[bytes], None], abort: Callable[[], None]) -> None:
        self.session = Session()
        self.outbox: list[bytes] = []
        self.send = send
        self.abort = abort
        self.receiving: dict[int, tuple[Receiver, asyncio.TimerHandle]] = {}
        self.waiting: dict[int, Callable[[Any], None]] = {}  # what ends each wait for a result
        self.stored: list[int] = []  # the publications of this turn that it stores
        self.refused: dict[int, float] = {}  # those that are not stored, and when that was said
        self.closed = False
        self.dropped = False  # whether it is to be closed at the end of this turn: nothing more of it is done
        self.hello: Request | None = None  # how it presented itself
        self.blamed = False  # whether a turn failed at its hello

    def answer(self, serial: int, value: Any) -> None:
        """Put an answer into the outbox, to leave at the end of the turn."""
        answer = frame((serial, None, value))
        if len(answer) > LARGEST_FRAME:
            self.refuse(serial, BrokerError(f"the answer has {len(answer)} bytes, more than {LARGEST_FRAME}; ask for fewer at once"))
        else:
            self.outbox.append(answer)

    def refuse(self, serial: int, error: ChappeError) -> None:
        """Put a refusal into the outbox."""
        failure = failure_of(BrokerError(str(error)) if isinstance(error, BrokenProtocol) else error)
        self.outbox.append(frame((serial, failure, None)))

    def flush(self) -> None:
        """Send what is in the outbox."""
        if self.outbox and not self.closed:
            self.send(b"".join(self.outbox))
        self.outbox.clear()
