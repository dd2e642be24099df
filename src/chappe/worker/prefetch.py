"""How many messages a worker asks for ahead of its slots. Pure."""

from __future__ import annotations

from typing import Final

AHEAD: Final = 0.02  # seconds of work to have at hand: longer than an answer of the broker takes
MOST: Final = 1000


def ahead(rate: float, concurrency: int) -> int:
    """Return how many messages to hold beyond those in slots, for a worker that ends `rate` messages a second.

    A worker of slow handlers holds nothing that another could run; a fast one is never starved.
    """
    return min(MOST, round(rate * AHEAD), 50 * concurrency)
