"""Archived events into one queue: for a subscriber that begins in the past, in order, each once, and again for one that asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec.structs import replace as changed

from chappe.archive.follow import AT_ONCE, WAIT, Following, Since, begin_at, refuse_no_since
from chappe.bus.context import REPLAYED
from chappe.connection import Connection
from chappe.engines.contract.archive import Archive, Record
from chappe.engines.contract.broker import Broker
from chappe.engines.contract.fleet import QueueStatus
from chappe.engines.contract.store import Store
from chappe.errors import BrokerError, DefinitionError, NotFound
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Options, Publication
from chappe.messages.topology import passes

Kind = Literal["direct", "topic", "fanout"]

log = logging.getLogger("chappe.archive")

_ONCE: Final = "archive {queue} {seq} {id}"  # the idempotency key of each: what is said again, or by another process, is not heard twice
_TWICE: Final = "replay {run} {queue} {seq}"  # the idempotency key of each: what is said again after a lost answer is not heard twice
_AGAIN: Final = 0.2
_STEPS_BACK: Final = 2.0  # seconds for which a process leaves the work to another one that does it too


class Subscription:
    """Puts into a queue what the archive holds of an exchange, and goes on with what comes; several processes may do it at once."""

    def __init__(
        self,
        connection: Callable[[], Awaitable[Connection]],
        queue: str,
        exchange: Exchange,
        pattern: str,
        *,
        since: int | datetime | timedelta,
        now: Callable[[], float],
    ) -> None:
        """Prepare; `since` counts when nothing was put there before. Raises `DefinitionError` where there is no past to begin in."""
        refuse_no_since(since, f'the subscriber of queue "{queue}"')
        if not exchange.archive:
            raise DefinitionError(f'the subscriber of queue "{queue}" begins in the past, but exchange "{exchange.name}" archives nothing')
        self.queue = queue
        self._connection = connection
        self._exchange = exchange
        self._pattern = pattern
        self._following = Following(
            self._archive, pattern if exchange.kind == "topic" else "#", since=since, name=f"@queue:{queue}", now=now
        )  # no application is called so
        self._begun: Connection | None = None

    async def _archive(self) -> Archive:
        return (await self._connection()).store

    async def run(self) -> None:
        """Do it until cancelled; a broker that is away delays, it does not end this."""
        while True:
            try:
                await self.turn(wait=WAIT)
            except BrokerError as error:
                log.warning('cannot put archived events into queue "%s" (%s); trying again', self.queue, error)
                await asyncio.sleep(_AGAIN)

    async def turn(self, *, wait: float = 0.0) -> bool:
        """Look at the next page of the archive, and tell whether there was anything."""
        connection, following = await self._connection(), self._following
        if connection is not self._begun:
            following.begin_again()
            self._begun = connection
        loss, page = await following.page(wait)
        if loss:
            lost = loss if loss > 0 else "some"
            log.warning('%s events before seq %d do not come to queue "%s": they are kept no more', lost, page.cursor + 1, self.queue)
        name, kind = self._exchange.name, self._exchange.kind
        fitting = [r for r in page.records if r.exchange == name and passes(kind, self._pattern, r.routing_key)]
        receipts = await connection.broker.publish([_fed(self.queue, record) for record in fitting])
        await following.passed(page, at_once=bool(fitting or loss))
        if receipts and all(receipt.outcome == "duplicate" for receipt in receipts):
            following.begin_again()  # another process is further
            await asyncio.sleep(_STEPS_BACK if wait else 0.0)
        return bool(fitting) or page.cursor < page.end


def _fed(queue: str, record: Record) -> Publication:
    options = Options(idempotency_key=_ONCE.format(queue=queue, seq=record.seq, id=record.envelope.id))
    return Publication(record.envelope, queue, options=options)


async def replay(broker: Broker, store: Store, queue: str, since: Since | None, *, until: int | None = None, run: str) -> int:
    """Put into a queue what its bindings took since then, up to the end of the archive as it is now, and say how many that were.

    Each message has the header `replayed` with its `seq`. `run` names this replay: one that broke off goes on under the same name
    without doubles. Raises `NotFound` for a queue that is not declared, or is bound to nothing.
    """
    overview = await store.overview()
    found = next((known for known in overview.queues if known.name == queue), None)
    if found is None:
        raise NotFound(f'no queue is called "{queue}"; declared are: {", ".join(known.name for known in overview.queues) or "none"}')
    if not found.bindings:
        raise NotFound(f'queue "{queue}" is bound to no exchange: nothing says which events it takes')
    kinds: dict[str, Kind] = {exchange.name: exchange.kind for exchange in overview.exchanges}
    position, end, count = await begin_at(store, since), (await store.archived(0, 0)).end, 0
    end = end if until is None else min(until, end)
    while position < end:
        page = await store.archived(position, AT_ONCE)
        fitting = [record for record in page.records if record.seq <= end and _takes(found, kinds, record)]
        if fitting:
            await broker.publish([_again(record, queue, run) for record in fitting])
        position, count = page.cursor, count + len(fitting)
    return count


def _takes(queue: QueueStatus, kinds: dict[str, Kind], record: Record) -> bool:
    return any(
        exchange == record.exchange and passes(kinds.get(exchange, "topic"), key, record.routing_key) for exchange, key in queue.bindings
    )


def _again(record: Record, queue: str, run: str) -> Publication:
    envelope = changed(record.envelope, headers={**record.envelope.headers, REPLAYED: str(record.seq)})
    return Publication(envelope, queue, options=Options(idempotency_key=_TWICE.format(run=run, queue=queue, seq=record.seq)))
