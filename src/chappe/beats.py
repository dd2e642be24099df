"""What a worker tells its supervisor once a second: how many slots are in use, and how long messages waited and ran."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
_SHORTEST: Final = BOUNDS[0]
LARGEST: Final = 3500  # bytes: what is written to a pipe at once up to 4,096 is never cut or mixed
_A_QUEUE: Final = 250  # bytes at most, beside its name


class Histogram(Struct, array_like=True):
    """How many values are up to each of the `BOUNDS`, and above the last, and their sum."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def include(self, other: Histogram) -> None:
        """Count what another one counted."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)


class Times(Struct, array_like=True):
    """Of the messages of one queue: how long they waited from when they were sent to their first start, and how long attempts ran."""

    queue: str
    waited: Histogram = msgspec.field(default_factory=Histogram)
    ran: Histogram = msgspec.field(default_factory=Histogram)

    def include(self, other: Times) -> None:
        """Count what another one counted."""
        self.waited.include(other.waited)
        self.ran.include(other.ran)


class Beat(Struct, array_like=True):
    """The slots in use, and the times since the last beat."""

    busy: int = 0
    times: list[Times] = []


encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Beat).decode


class Clocked:
    """The times of the messages of one process since they were last told."""

    def __init__(self) -> None:
        self._queues: dict[str, Times] = {}

    def add(self, queue: str, waited: float | None, ran: float) -> None:
        """Count one attempt; `waited` is of the first only."""
        times = self._queues.get(queue)
        if times is None:
            times = self._queues[queue] = Times(queue)
        # Once for each message: written out, for a call costs more than what it does.
        if waited is not None:
            waits = times.waited
            if waited > 0.0:
                waits.counts[bisect_left(BOUNDS, waited)] += 1
                waits.total += waited
            else:
                waits.counts[0] += 1
        runs = times.ran
        runs.counts[0 if ran <= _SHORTEST else bisect_left(BOUNDS, ran)] += 1
        runs.total += ran

    def take(self) -> list[Times]:
        """Return what fits into one beat, and count it no more; the rest waits for the next."""
        taken: list[Times] = []
        room = LARGEST
        for queue in list(self._queues):
            room -= _A_QUEUE + 4 * len(queue)
            if room < 0 and taken:
                break
            taken.append(self._queues.pop(queue))
        return taken

    def put_back(self, times: Iterable[Times]) -> None:
        """Count again what could not be told."""
        for one in times:
            kept = self._queues.setdefault(one.queue, one)
            if kept is not one:
                kept.include(one)
