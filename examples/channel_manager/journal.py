"""What the channel server saw: a bounded log of the pushes, and figures over them."""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from typing import Any, Final

from msgspec import Struct

KEPT: Final = 50_000
SAMPLES: Final = 20_000


class Entry(Struct, frozen=True):
    """One push as the channel saw it; times are epoch seconds, the journey is from requested to received."""

    n: int
    channel: str
    listing: str
    message_id: str | None
    received_at: float
    requested_at: float | None
    outcome: str


class Journal:
    """The last pushes and all counts; noting one costs the same however many there were."""

    def __init__(self, kept: int = KEPT) -> None:
        self._entries: deque[Entry] = deque(maxlen=kept)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._latencies: dict[str, deque[float]] = {}
        self._last = 0

    def note(
        self, channel: str, listing: str, message_id: str | None, received_at: float, requested_at: float | None, outcome: str
    ) -> None:
        """Add a push; the oldest one leaves when the log is full."""
        self._last += 1
        self._entries.append(Entry(self._last, channel, listing, message_id, received_at, requested_at, outcome))
        self._counts[channel, outcome] += 1
        if requested_at is not None and outcome == "ok":
            self._latencies.setdefault(channel, deque(maxlen=SAMPLES)).append(received_at - requested_at)

    def after(self, n: int, limit: int) -> list[Entry]:
        """Return the entries after number n, oldest first; those that left the log are missing."""
        first = self._last - len(self._entries) + 1
        start = max(0, n + 1 - first)
        return list(islice(self._entries, start, start + limit))

    @property
    def last(self) -> int:
        """The number of the newest entry, 0 before the first."""
        return self._last

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return counts by outcome, and the latency (seconds) of the pushes that were taken, for each channel seen."""
        answer = dict[str, dict[str, Any]]()
        for (channel, outcome), count in sorted(self._counts.items()):
            answer.setdefault(channel, {"outcomes": {}})["outcomes"][outcome] = count
        for channel, latencies in self._latencies.items():
            ordered = sorted(latencies)
            answer[channel]["latency"] = {
                "count": len(ordered),
                "mean": sum(ordered) / len(ordered),
                "p50": ordered[len(ordered) // 2],
                "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
                "max": ordered[-1],
            }
        return answer
