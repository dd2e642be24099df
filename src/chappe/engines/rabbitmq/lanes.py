"""The AMQP queues behind one queue: its own, and one each for larger and smaller priorities, which quorum queues do not know.

What has a priority is kept by the store, in order, and only its tickets wait in the lanes.
"""

from __future__ import annotations

from typing import Any, Final

HIGH: Final = 1
LOW: Final = 2
_SUFFIXES: Final = {HIGH: ".high", 0: "", LOW: ".low"}
_SIGNS: Final = {HIGH: 1, 0: 0, LOW: -1}
ARCHIVE: Final = "chappe.archive"
CONTROL: Final = "chappe.control"

# Lost are messages neither by a limit of deliveries (RabbitMQ 4 has one of 20) nor by a limit of length: what is too much is refused.
QUORUM: Final[dict[str, Any]] = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": 1_000_000_000}


def lane_of(queue: str, priority: int) -> str:
    """Return the AMQP queue for a priority."""
    return queue + _SUFFIXES[HIGH if priority > 0 else LOW if priority < 0 else 0]


def lanes_of(queue: str, lanes: int) -> dict[str, int]:
    """Return the AMQP queues of a queue, larger priorities first, each with the sign of its priorities."""
    return {queue + suffix: _SIGNS[lane] for lane, suffix in _SUFFIXES.items() if lane == 0 or lanes & lane}
