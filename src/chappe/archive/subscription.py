"""A durable subscriber that begins in the past: the archive feeds its queue, in order, each event once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from chappe.archive.follow import WAIT, Following, refuse_no_since
from chappe.connection import Connection
from chappe.engines.contract.archive import Archive, Record
from chappe.errors import BrokerError, DefinitionError
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Options, Publication
from chappe.messages.topology import passes

log = logging.getLogger("chappe.archive")

_ONCE: Final = "archive {queue} {seq} {id}"  # the idempotency key of each: what is said again, or by another process, is not heard twice
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
