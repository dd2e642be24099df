"""Dead letters, and what is carried to another engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from chappe.bounds import Seconds
from chappe.messages.envelope import Envelope


class Letter(Struct, frozen=True, array_like=True):
    """A dead letter, with everything needed to understand and repeat it.

    `attempts` counts those of its handlers, the one that it died in included; `deaths` the workers that died while they ran it.
    """

    number: int
    queue: str
    reason: str
    error: str | None
    attempts: int
    died_at: float
    envelope: Envelope
    history: tuple[tuple[float, int, str], ...] = ()
    deaths: int = 0


class Exported(Struct, frozen=True, array_like=True):
    """All that a store knows of a message, for another engine: `delay` is what is left of it, `unique_for` of its window.

    `letter` is the reason, the error, the time of death and the history of a dead one.
    """

    place: int
    envelope: Envelope
    attempt: Annotated[int, Meta(ge=0, lt=2**31)]
    priority: Annotated[int, Meta(ge=-(2**31), lt=2**31)] = 0
    delay: float | None = None
    key: str | None = None
    merges: bool = False
    unique: str | None = None
    unique_for: float | None = None
    tracked: bool = False
    letter: tuple[str, str | None, Seconds, tuple[tuple[float, int, str], ...]] | None = None


class Letters(Protocol):
    """Dead letters, and what moves between engines."""

    async def letters(self, queue: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        """List dead letters by number."""
        ...

    async def failing(self, *, after: int = 0, limit: int = 100) -> list[Letter]:
        """List messages that have failed and wait for another attempt, as if they had died of it.

        Their numbers, by which they come, are none of dead letters, and a large body may be left out.
        """
        ...

    async def letter(self, number: int) -> Letter:
        """Return one dead letter. Raises `NotFound`."""
        ...

    async def retry_letters(self, numbers: Sequence[int]) -> int:
        """Make dead letters ready again with fresh attempts and say how many; marks of finished handlers stay."""
        ...

    async def edit_letter(self, number: int, body: bytes) -> None:
        """Replace the body of a dead letter. Raises `NotFound`."""
        ...

    async def discard_letters(self, numbers: Sequence[int]) -> int:
        """Delete dead letters and say how many."""
        ...

    async def export_messages(self, queue: str, state: str, *, after: int = 0, later: float = 0.0, limit: int = 100) -> list[Exported]:
        """Show what is *delayed* for more than `later` seconds, *dead* with a larger number than `after`, or *running* at this connection.

        Delayed ones into which others are merged, that have the turn of their key, or that still go through an exchange, are not shown:
        they are carried when they are ready. Of what runs, those that a broker keeps by itself may be left out: there is nothing more
        to know of them.
        """
        ...

    async def delete_delayed(self, queue: str, places: Sequence[int]) -> list[int]:
        """Delete messages that are still delayed, and return which: they are another engine's now."""
        ...

    async def import_letters(self, queue: str, letters: Sequence[Exported]) -> int:
        """Store dead letters of another engine, without those that are there already, and say how many; their numbers are new."""
        ...
