"""One log of what went to the disk and of what the engine said meanwhile: a place in it is a moment when the power may go."""

from __future__ import annotations

from typing import Any, NamedTuple

from .disk import Operation

Key = tuple[str, int]  # a connection, and the number of a request on it


class Asked(NamedTuple):
    """The engine begins to do something that it must remember: a client's request, or its own work at that time."""

    number: int
    verb: str
    arguments: Any
    now: float
    client: str  # who says `publish`: its last serial number is remembered
    serial: int


class Answered(NamedTuple):
    """The bytes of an answer leave the engine: from here on it is promised. A refusal promises nothing."""

    number: int
    refused: bool
    value: Any


class Lent(NamedTuple):
    """Deliveries leave the engine, as (tag, queue, message id)."""

    deliveries: list[tuple[int, str, str]]


class Index(NamedTuple):
    """What SQLite's `-shm` file says by now; it is never synced, and may be found as it was at any time."""

    data: bytes


class Ready(NamedTuple):
    """The file was opened for the first time, and may be written to."""


Event = Operation | Asked | Answered | Lent | Index | Ready


class Tape:
    """Events in the order in which they happened."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.asked: list[Asked] = []
        self.answers: dict[int, Answered] = {}
        self.waiting: dict[Key, int] = {}

    def ask(self, verb: str, arguments: Any, now: float, key: Key | None = None, client: str = "") -> None:
        """Log a request; one without a key is the engine's own work and has no answer."""
        asked = Asked(len(self.asked), verb, arguments, now, client, key[1] if key else 0)
        self.asked.append(asked)
        self.events.append(asked)
        if key is not None:
            self.waiting[key] = asked.number

    def answer(self, key: Key, value: Any, *, refused: bool) -> None:
        """Log an answer, if its request is on this tape."""
        number = self.waiting.pop(key, None)
        if number is not None:
            self.answers[number] = answered = Answered(number, refused, value)
            self.events.append(answered)
