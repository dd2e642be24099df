"""What the broker needs of the store beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from chappe.engines.rabbitmq.outbox import Counts, Outbox, Ticket
from chappe.messages.envelope import Envelope
from chappe.messages.finding import Finding
from chappe.messages.topology import Topology


class Kept(Outbox, Protocol):
    """The copies, their tickets, the topology and the sessions; see each sentence."""

    async def declare(self, topology: Topology) -> bool:
        """See `Broker.declare`; tells whether anything was new."""
        ...

    async def lanes(self, queue: str, *, fresh: bool = False) -> int:
        """Return the lanes of a declared queue, or raise `NotFound`; `fresh` looks at what others declared meanwhile."""
        ...

    async def takers(self, exchange: str, routing_key: str, *, fresh: bool = False) -> Sequence[str]:
        """Return the queues that take this routing key, or raise `Unroutable`."""
        ...

    async def blame(self, marks: Sequence[int]) -> None:
        """Count a death for each of these marks."""
        ...

    async def promote(self) -> tuple[list[Ticket], float | None]:
        """Make ready what is due; give its tickets, and in how many seconds the next is due."""
        ...

    async def unsent(self) -> list[Ticket]:
        """Return tickets that were not seen confirmed for a while."""
        ...

    async def prune(self) -> None:
        """Delete a bounded part of what was kept long enough."""
        ...

    async def confirm(self, sendings: Sequence[tuple[int, int]]) -> None:
        """Hear that RabbitMQ has these tickets, each by its number and which sending it was."""
        ...

    async def counts(self, queues: Sequence[str]) -> Mapping[str, Counts]:
        """Count the copies of queues. Raises `NotFound`."""
        ...

    async def purge(self, queue: str) -> int:
        """Delete copies that are ready or delayed, and say how many."""
        ...

    async def reticket(self, queue: str) -> None:
        """Have all that is ready given tickets again."""
        ...

    async def remove(self, queue: str) -> None:
        """Forget an empty queue."""
        ...

    async def peek(self, queue: str, state: str, limit: int) -> list[tuple[int, int, Envelope]]:
        """Show copies of a queue in a state, each with its place, attempts and envelope."""
        ...

    async def session(self) -> int:
        """Return the number of this session."""
        ...

    async def consumers(self) -> Sequence[int]:
        """Return the sessions that live and consume."""
        ...

    async def consume(self) -> None:
        """Note that this session consumes."""
        ...

    async def queues(self) -> Sequence[str]:
        """Return the queues that were declared."""
        ...

    async def preflight(self) -> list[Finding]:
        """See `Broker.preflight`."""
        ...
