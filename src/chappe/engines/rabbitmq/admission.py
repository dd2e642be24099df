"""What the store knows of messages that came: of tickets, and of what comes again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from chappe.bounds import DEATHS_ALLOWED
from chappe.engines.contract.broker import Dead
from chappe.engines.rabbitmq.endings import ending_of
from chappe.engines.rabbitmq.lane import Item, Lane
from chappe.engines.rabbitmq.outbox import Outbox, Presented, Ticket, mark_of

log = logging.getLogger("chappe.rabbitmq")

SendTickets = Callable[[Sequence[Ticket]], Awaitable[None]]


class Admission:
    """Completes what came, and buries what killed too many workers."""

    def __init__(self, outbox: Outbox, send: SendTickets) -> None:
        self._outbox = outbox
        self._send = send

    async def admit(self, lane: Lane, batch: Sequence[Item]) -> set[Item]:
        """Complete what came by what the store knows of it, and return what is to be handled."""
        presented = [Presented(int(item.ticket.partition(":")[0]), item.ticket) for item in batch if item.ticket is not None]
        again = [item.envelope.id for item in batch if item.again]
        marks = [mark_of(lane.queue, identity) for identity in again]
        deaths: Mapping[int, int] = await self._outbox.deaths(marks) if again else {}
        earlier: Mapping[str, tuple[int, str | None]] = await self._outbox.earlier(lane.queue, again) if again else {}
        lent = iter(await self._outbox.present(lane.queue, lane.sign, presented) if presented else [])
        wanted: set[Item] = set()
        for item in batch:
            if item.ticket is not None:
                item.lent = next(lent)
                if item.lent is None:
                    continue
                item.envelope, item.attempt, item.note = item.lent.envelope, item.lent.attempt, item.lent.note
            elif item.envelope.id in earlier:
                spent, item.note = earlier[item.envelope.id]
                item.attempt, item.kept = spent + 1, True
            if item.again:
                item.deaths = deaths.get(mark_of(lane.queue, item.envelope.id), 0)
                item.attempt += item.deaths
            wanted.add(item)
        return wanted - await self._bury([item for item in wanted if item.deaths >= DEATHS_ALLOWED])

    async def _bury(self, poison: Sequence[Item]) -> set[Item]:
        if poison:
            buried = [Dead(0, "worker_lost", f"{item.deaths} workers died while they ran this message") for item in poison]
            _, tickets = await self._outbox.settle([ending_of(dead, item) for dead, item in zip(buried, poison, strict=True)])
            for item in poison:
                log.error("%s %s is a dead letter: %d workers died while they ran it", item.envelope.type, item.envelope.id, item.deaths)
            await self._send(tickets)
        return set(poison)
