"""What a handler may know about the delivery it works on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from chappe.messages.envelope import NO_HEADERS
from chappe.messages.message import Message

Progress = Callable[[str, int, int, str], Awaitable[None]]
Marks = Callable[[str], Awaitable[Mapping[str, bytes | None]]]
Mark = Callable[[str, str, list[Message], Any], Awaitable[bool]]


class Context:
    """One attempt at one message, the same wherever the message came from.

    `attempt` counts from 1. `then` holds what the handlers yielded so far.
    """

    __slots__ = ("_ports", "attempt", "correlation_id", "headers", "id", "marked", "note", "queue", "sent_at", "then")

    def __init__(
        self,
        id: str,  # noqa: A002 - the word of the wire
        *,
        attempt: int = 1,
        queue: str = "",
        sent_at: float = 0.0,
        headers: Mapping[str, str] = NO_HEADERS,
        correlation_id: str | None = None,
        note: str | None = None,
        ports: Ports | None = None,
    ) -> None:
        self.id = id
        self.attempt = attempt
        self.queue = queue
        self.sent_at = sent_at
        self.headers = headers
        self.correlation_id = correlation_id
        self.note = note
        self.then: list[Message] = []
        self.marked = False
        self._ports = ports

    @property
    def ports(self) -> Ports:
        """What the bus reaches the store by."""
        return self._ports or NO_PORTS

    def idempotency_key(self, effect: str = "") -> str:
        """Return a key that is the same in every attempt, to send to third parties with an effect."""
        return f"{self.id}:{effect}" if effect else self.id

    async def progress(self, done: int, total: int, text: str = "") -> None:
        """Show how far this message is, to whoever asks for it by id."""
        await self.ports.progress(self.id, done, total, text)


class Ports:
    """The few things that handling needs from the store, so that the bus runs without one.

    `mark` remembers durably that a handler finished, publishes what was yielded so far with it, and says so.
    """

    __slots__ = ("mark", "marks", "progress", "take")

    def __init__(
        self,
        *,
        mark: Mark,
        marks: Marks,
        progress: Progress,
        take: Callable[[str, float, int], Awaitable[float]],
    ) -> None:
        self.mark = mark
        self.marks = marks
        self.progress = progress
        self.take = take


async def _forget(*_: object) -> None: ...


async def _no_marks(_: str) -> Mapping[str, bytes | None]:
    return {}


async def _no_mark(*_: object) -> bool:
    return False


async def _no_wait(*_: object) -> float:
    return 0.0


NO_PORTS = Ports(mark=_no_mark, marks=_no_marks, progress=_forget, take=_no_wait)
