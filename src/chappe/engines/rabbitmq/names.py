"""What of Chappe's own is in RabbitMQ, and how its queues are declared."""

from __future__ import annotations

from typing import Any, Final

ARCHIVE: Final = "chappe.archive"
RELAY: Final = "chappe.relay"  # a queue of the store: what goes through an exchange later, or with options

# Lost are messages neither by a limit of deliveries (RabbitMQ 4 has one of 20) nor by a limit of length: what is too much is refused.
QUORUM: Final[dict[str, Any]] = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": 1_000_000_000}
