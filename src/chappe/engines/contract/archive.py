"""What happened, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from chappe.messages.envelope import Envelope


class Record(Struct, frozen=True, array_like=True):
    """One archived event: `seq` grows by one from each to the next, but where those of an exchange that keeps them shorter were between."""

    seq: int
    at: float
    exchange: str
    routing_key: str
    envelope: Envelope


class Page(Struct, frozen=True, array_like=True):
    """What was found from one position on: read on from `cursor`, which moves on also where no record fits.

    `end` is the `seq` of the last event that was archived, kept or not. `lost` counts the events between the position and `cursor` that
    are kept no more. A position behind the end is one of another archive: its `cursor` is the end, and smaller than what was asked.
    """

    records: list[Record]
    cursor: int
    end: int
    lost: int = 0


class Archive(Protocol):
    """The events of exchanges that archive, and how far those who follow them are."""

    async def archived(self, after: int, limit: int, *, pattern: str = "#", wait: float = 0.0) -> Page:
        """Read the archive from `seq` > `after`, in order, and leave nothing out that is kept.

        Where `after` is the end, wait up to `wait` seconds for the next event, whether it fits or not, and answer as soon as it is there,
        or with nothing where the connection was lost meanwhile.
        """
        ...

    async def followers(self) -> Mapping[str, int]:
        """Return the positions that were kept, by name."""
        ...

    async def keep_position(self, follower: str, position: int | None) -> None:
        """Keep how far a follower is, durably, or forget it."""
        ...
