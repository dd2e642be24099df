"""What an operator asks first."""

from __future__ import annotations

from typing import Any, Protocol


class Fleet(Protocol):
    """Everything that is connected."""

    async def engine(self) -> dict[str, Any]:
        """Tell of the engine itself without counting what waits in it: its `path`, and whether its disk is `full`."""
        ...

    async def overview(self) -> dict[str, Any]:
        """Tell everything an operator asks first: queues with counts, connected processes, totals."""
        ...
