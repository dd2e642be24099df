"""Tickets on their way to RabbitMQ: of what was just stored, of what became due, and of what somebody could not send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import uuid4

from chappe.engines.rabbitmq.confirms import Outgoing
from chappe.engines.rabbitmq.consuming import RabbitConsumer
from chappe.engines.rabbitmq.control import Control, Question
from chappe.engines.rabbitmq.kept import Kept
from chappe.engines.rabbitmq.lanes import QUORUM, lane_of
from chappe.engines.rabbitmq.outbox import Ticket
from chappe.engines.rabbitmq.outlet import Outlet
from chappe.engines.rabbitmq.properties import COPIES, TICKET, properties_of
from chappe.errors import BrokerError
from chappe.messages.envelope import Envelope

log = logging.getLogger("chappe.rabbitmq")

_PATIENCE: Final = 1.0  # seconds for which somebody waits until RabbitMQ has a ticket
_NOTHING: Final = b""
_LOOK: Final = 1.0  # seconds at most between two looks at what is due
_PRUNE: Final = 60.0
_AGAIN_AT_MOST: Final = 10_000  # tickets that could not be sent
_AGAIN_AFTER: Final = 0.2
_TRIES: Final = 20
_BIND: Final = 3.0  # seconds between two looks at exchanges that others may delete and make again: our bindings go with them
_CONFIRMED: Final = 0.5  # seconds for which confirmed tickets are collected

DeclareFragile = Callable[[], Awaitable[None]]


class _Every:
    """Says when so many seconds have passed since it last said so."""

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._last = now

    def is_due(self, now: float) -> bool:
        """Tell whether it is time again."""
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class Relay:
    """Sends the tickets of one session; from its first one, or the first `look`, it works until it is closed."""

    def __init__(
        self, kept: Kept, outlet: Outlet, control: Control, consumers: set[RabbitConsumer], *, declare_fragile: DeclareFragile
    ) -> None:
        """Prepare; `consumers` are told of lanes that are new, and `declare_fragile` has made again what others may have deleted."""
        self._kept = kept
        self._outlet = outlet
        self._control = control
        self._consumers = consumers
        self._declare_fragile = declare_fragile
        self._confirmed: set[tuple[int, int]] = set()
        self._relaying: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._lanes_declared: set[str] = set()
        self._again: dict[tuple[int, int, str, str], Ticket] = {}
        self._tries: dict[tuple[int, int, str, str], int] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End, and tell the store last which tickets RabbitMQ has."""
        ending = [*self._sending, *([] if self._relaying is None else [self._relaying])]
        self._relaying = None
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._confirmed:
            with contextlib.suppress(BrokerError):
                await self._tell_confirmed()

    def forget(self, lane: str) -> None:
        """Hear that a lane was deleted."""
        self._lanes_declared.discard(lane)

    async def send(self, tickets: Sequence[Ticket]) -> None:
        """Send tickets, and return when RabbitMQ has them, or a little later: their messages are stored, and they follow."""
        if tickets:
            sending = asyncio.get_running_loop().create_task(self._send(tickets))
            self._sending.add(sending)
            sending.add_done_callback(self._sent)
            await asyncio.wait([sending], timeout=_PATIENCE)

    def _sent(self, sending: asyncio.Task[None]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            log.error("sending tickets failed: %r; they follow", error, exc_info=error)

    async def _send(self, tickets: Sequence[Ticket]) -> None:
        # One whose exchange is gone ends the connection, and with it what others wait for: those go last.
        tickets = sorted(tickets, key=lambda ticket: bool(ticket.exchange))
        straight = sum(1 for ticket in tickets if not ticket.exchange)
        outcomes: list[Exception | None] = []
        try:
            await self._open_lanes(tickets)
            for some in (tickets[:straight], tickets[straight:]):
                outcomes += await self._outlet.publish_each([_ticket(ticket) for ticket in some], known=True) if some else []
        except BrokerError as error:
            outcomes += [error] * (len(tickets) - len(outcomes))
        failed = [(ticket, outcome) for ticket, outcome in zip(tickets, outcomes, strict=True) if outcome is not None]
        if failed:
            log.warning("%d tickets of messages that are stored cannot be sent now (%s); they follow", len(failed), failed[0][1])
        for ticket, _ in failed:
            self._lanes_declared.discard(lane_of(ticket.routing_key, ticket.priority))
        self._send_again([ticket for ticket, _ in failed])
        self._confirmed |= {_which(ticket) for ticket in tickets} - {_which(ticket) for ticket, _ in failed}
        if any(ticket.priority for ticket in tickets):  # of a priority only what is known to be there is chosen from
            with contextlib.suppress(BrokerError):
                await self._tell_confirmed()
        self._begin_to_relay()

    def _send_again(self, tickets: Sequence[Ticket]) -> None:
        """Send tickets with the next looks; those that fail often are left to whoever looks for what was not confirmed."""
        for ticket in tickets:
            which = (ticket.number, ticket.sending, ticket.exchange, ticket.routing_key)
            tries = self._tries.get(which, 0) + 1
            if tries <= _TRIES and len(self._again) < _AGAIN_AT_MOST:
                self._tries[which], self._again[which] = tries, ticket
        self._begin_to_relay()

    async def _open_lanes(self, tickets: Sequence[Ticket]) -> None:
        """Make the lanes of larger and smaller priorities exist, and tell those who consume their queues."""
        for ticket in tickets:
            name = lane_of(ticket.routing_key, ticket.priority)
            if ticket.exchange or not ticket.priority or name in self._lanes_declared:
                continue
            link = await self._control.link()
            await link.queue(name, arguments=QUORUM)
            lanes = await self._kept.lanes(ticket.routing_key, fresh=True)
            for consumer in self._consumers:
                consumer.open_lane(ticket.routing_key, lanes)
            await self._control.tell(Question("", (ticket.routing_key,), lanes))
            self._lanes_declared.add(name)

    def look(self) -> None:
        """Look at what is due, soon and from now on."""
        self._due.set()
        self._begin_to_relay()

    def _begin_to_relay(self) -> None:
        """Look at what is due from now on."""
        if self._relaying is None:
            self._relaying = asyncio.get_running_loop().create_task(self._relay())

    async def _relay(self) -> None:
        """Send the tickets of what became due, and those that somebody could not send."""
        loop = asyncio.get_running_loop()
        confirming, sweeping, binding, pruning = (_Every(seconds, loop.time()) for seconds in (_CONFIRMED, _LOOK, _BIND, _PRUNE))
        while True:
            self._due.clear()
            wait = _LOOK
            try:
                tickets, due = await self._kept.promote()
                again, self._again = self._again, {}
                await self.send([*again.values(), *tickets])
                if not self._again:
                    self._tries.clear()
                for consumer in list(self._consumers):
                    for queue in consumer.queues:
                        consumer.open_lane(queue, await self._kept.lanes(queue))
                wait = _LOOK if due is None else max(0.0, min(_LOOK, due))
                if self._confirmed and confirming.is_due(loop.time()):
                    await self._tell_confirmed()
                if sweeping.is_due(loop.time()):
                    await self.send(await self._kept.unsent())
                if binding.is_due(loop.time()):
                    await self._declare_fragile()
                if pruning.is_due(loop.time()):
                    await self._kept.prune()
            except BrokerError as error:
                log.warning("cannot look at what is due (%s); trying again", error)
            except Exception:  # whatever it is, what is due must be looked at again
                log.exception("looking at what is due failed; trying again")
            if self._again:
                wait = min(wait, _AGAIN_AFTER)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._due.wait()

    async def _tell_confirmed(self) -> None:
        confirmed, self._confirmed = self._confirmed, set()
        try:
            await self._kept.confirm(sorted(confirmed))
        except BrokerError:
            self._confirmed |= confirmed
            raise


def _which(ticket: Ticket) -> tuple[int, int]:
    return ticket.number, ticket.sending


def _ticket(ticket: Ticket) -> Outgoing:
    """Return the message that stands for a copy; through an exchange it is the message itself, for other programs."""
    if ticket.exchange:
        marks: Mapping[str, str] = {COPIES: "1"} if ticket.only_copies else {TICKET: f"{ticket.number}:{uuid4().hex}"}
        return Outgoing(ticket.exchange, ticket.routing_key, ticket.envelope.body, properties_of(ticket.envelope, marks))
    short = Envelope(ticket.envelope.id, ticket.envelope.type, _NOTHING, ticket.envelope.timestamp)
    name = lane_of(ticket.routing_key, ticket.priority)
    return Outgoing("", name, _NOTHING, properties_of(short, {TICKET: f"{ticket.number}:{uuid4().hex}"}))
