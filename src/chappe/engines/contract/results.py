"""What became of messages, and what is remembered for those that run: results, marks, budgets, schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from chappe.engines.budget import BudgetStatus
from chappe.messages.envelope import Publication, Receipt

CANCELLED: Final = "it was cancelled"
ENDED: Final = frozenset({"done", "dead", "cancelled"})

Merge = Callable[[Sequence[Publication], Sequence[Receipt]], Sequence[Publication]]


class State(Struct, frozen=True):
    """Where a tracked message is in its life: delayed, ready, running, done, dead or cancelled."""

    id: str
    type: str
    state: str
    queue: str = ""
    result: bytes | None = None
    error: str | None = None
    progress: tuple[int, int, str] | None = None
    merged_into: str | None = None


class Start(Struct, frozen=True, array_like=True):
    """Whether a message may start: `wait` are the seconds until then, or else until its budget may have room."""

    granted: bool
    wait: float


def ended_as(state: str, error: str | None) -> str:
    """Return how a message ended, of which a state and an error were stored."""
    return "cancelled" if error == CANCELLED else state


class Results(Protocol):
    """States and results, marks, budgets and schedules."""

    async def mark(self, message_id: str, handler: str, then: Sequence[Publication] = (), result: bytes | None = None) -> list[Receipt]:
        """Remember durably that this handler finished this message, and what it returned; `then` is published with the mark or not at all.

        Raises `Unroutable`. If one of them must be merged first, nothing is stored and the receipts of all are given.
        """
        ...

    async def marks(self, message_id: str) -> Mapping[str, bytes | None]:
        """Return the handlers that finished this message with their results; forgotten when the message is done."""
        ...

    async def take(self, budget: str, interval: float | None, burst: int, *, within: float = 0.0, tag: int = 0) -> Start:
        """Take the next start of a budget of one per `interval` seconds if it is `within` so many seconds, else take nothing.

        Without an `interval` the pace is what was learned from refusals, and there is none before the first.

        Generic cell rate algorithm (ITU-T I.371), one truth for all workers. A delivery with this `tag` takes nothing either while
        another message of its queue that waits for the same budget comes before it.
        """
        ...

    async def throttle(self, budget: str, until: float | None) -> None:
        """Have nobody take a start of a budget before a time, in seconds since the epoch.

        One that is learned hears of a refusal by it, and says itself until when where that is not known; others do nothing then.
        """
        ...

    async def budgets(self, limit: int = 1000) -> list[BudgetStatus]:
        """Return how the budgets are that were used within a day, by their names."""
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
        """Wait until a tracked message is done, dead or cancelled, at most so many seconds, and tell where it is."""
        ...

    async def batch(self, batch: str) -> Mapping[str, int]:
        """Count the tracked messages of a batch that are known, whose ids are its own, a dot and a number: *waiting*, *done* or *dead*.

        What runs or is delayed is waiting. Those that ended are known for a day.
        """
        ...

    async def batches(self, before: str = "", limit: int = 50) -> list[str]:
        """Return the ids of the batches of which any message is known, the latest first: those that began before another one."""
        ...

    async def progress(self, message_id: str, done: int, total: int, text: str) -> None:
        """Show how far a tracked message is."""
        ...
