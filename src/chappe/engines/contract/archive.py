"""What happened, in order."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from chappe.messages.envelope import Envelope


class Record(Struct, frozen=True):
    """One archived event: `seq` grows by one from each to the next, but where those of an exchange that keeps them shorter were between."""

    seq: int
    at: float
    exchange: str
    routing_key: str
    envelope: Envelope


class Archive(Protocol):
    """The events of exchanges that archive."""

    async def archived(self, after: int, limit: int, *, pattern: str = "#") -> list[Record]:
        """Read the archive from `seq` > `after`, in order, and leave nothing out that is kept."""
        ...
