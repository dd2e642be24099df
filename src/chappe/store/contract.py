"""What must be remembered beside the broker; `tests/contract` tests each sentence on each store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from chappe.messages.envelope import Envelope, Publication, Receipt

Merge = Callable[[Sequence[Publication], Sequence[Receipt]], Sequence[Publication]]


class State(Struct, frozen=True):
    """Where a tracked message is in its life: delayed, ready, running, done or dead."""

    id: str
    type: str
    state: str
    queue: str = ""
    result: bytes | None = None
    error: str | None = None
    progress: tuple[int, int, str] | None = None
    merged_into: str | None = None


class Letter(Struct, frozen=True):
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
    attempt: int
    priority: int = 0
    delay: float | None = None
    key: str | None = None
    merges: bool = False
    unique: str | None = None
    unique_for: float | None = None
    tracked: bool = False
    letter: tuple[str, str | None, float, tuple[tuple[float, int, str], ...]] | None = None


class Record(Struct, frozen=True):
    """One archived event: `seq` grows by exactly one from each to the next."""

    seq: int
    at: float
    exchange: str
    routing_key: str
    envelope: Envelope


class Store(Protocol):
    """Marks, budgets, schedules, results and dead letters."""

    async def mark(self, message_id: str, handler: str, then: Sequence[Publication] = (), result: bytes | None = None) -> list[Receipt]:
        """Remember durably that this handler finished this message, and what it returned; `then` is published with the mark or not at all.

        Raises `Unroutable`. If one of them must be merged first, nothing is stored and the receipts of all are given.
        """
        ...

    async def marks(self, message_id: str) -> Mapping[str, bytes | None]:
        """Return the handlers that finished this message with their results; forgotten when the message is done."""
        ...

    async def take(self, budget: str, interval: float, burst: int) -> float:
        """Reserve the next start of a budget of one per `interval` seconds and say in how many seconds it is.

        Generic cell rate algorithm (ITU-T I.371), one truth for all workers.
        """
        ...

    async def begin_schedules(self, application: str, definitions: Mapping[str, str], now: float) -> None:
        """Remember how the schedules of an application are defined, by their names.

        One that is new, is defined otherwise than before, or was left out the last time counts its slots from `now` on, but not again
        from before a slot that was fired up to a minute ahead. The others go on, so that it may be said as often as there are schedulers.
        """
        ...

    async def fire(self, schedule: str, slot: float, publications: Sequence[Publication], merge: Merge | None = None) -> bool:
        """Publish for one slot of a schedule and remember it, or do nothing if it or a later one was fired.

        `merge` is asked for other publications when one must be merged with a pending message first, as often as needed.
        """
        ...

    async def last_fired(self, schedule: str) -> float | None:
        """Return the latest slot of a schedule that was fired, or else when it began to count."""
        ...

    async def state(self, message_id: str) -> State:
        """Tell where a tracked message is. Raises `NotFound`; results are kept for a day."""
        ...

    async def result(self, message_id: str, wait: float) -> State:
        """Wait until a tracked message is done or dead, at most so many seconds, and tell where it is."""
        ...

    async def progress(self, message_id: str, done: int, total: int, text: str) -> None:
        """Show how far a tracked message is."""
        ...

    async def letters(self, queue: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        """List dead letters by number."""
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

    async def archived(self, after: int, limit: int, *, pattern: str = "#") -> list[Record]:
        """Read the archive from `seq` > `after`, in order, gap-free."""
        ...

    async def overview(self) -> dict[str, Any]:
        """Tell everything an operator asks first: queues with counts, connected processes, totals."""
        ...
