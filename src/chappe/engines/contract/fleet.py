"""What an operator asks first, and what is wanted of the processes and queues of all hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from msgspec import Struct

PAUSED: Final = "paused"


class Desired(Struct, frozen=True, array_like=True):
    """What somebody wants of one thing: of each `what` the latest counts, and the earlier ones are kept as the audit trail.

    `what` is "pool:NAME" with how many processes, "queue:NAME" or "intake" which may be `PAUSED`, or "reload"; the value None
    means: as it is declared.
    """

    number: int
    what: str
    value: str | None
    who: str
    at: float


class Fleet(Protocol):
    """Everything that is connected."""

    async def engine(self) -> dict[str, Any]:
        """Tell of the engine itself without counting what waits in it: its `path`, and whether its disk is `full`."""
        ...

    async def overview(self) -> dict[str, Any]:
        """Tell everything an operator asks first: queues with counts, connected processes, totals.

        Of each queue: whether it is `paused`, and as `oldest` the seconds since the message that is next was sent or due.
        """
        ...

    async def tell(self, info: Mapping[str, Any]) -> None:
        """Replace what `overview` shows of this process, for as long as it is connected."""
        ...

    async def desire(self, what: str, value: str | None, who: str) -> Desired:
        """Remember what somebody wants; larger numbers are later.

        A queue that is desired to be `PAUSED` lends nothing more but what is being lent at this moment, and what runs goes on. Raises
        `NotFound` for an undeclared queue.
        """
        ...

    async def desired(self, *, after: int = 0, every: bool = False, limit: int = 1000) -> list[Desired]:
        """Return what is wanted now of each thing about which somebody said something later than `after`, in that order.

        `every` returns all that was said, up to `limit`, the latest last.
        """
        ...
