"""A durable subscriber that begins in the past: the archive feeds its queue, in order, each event once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from chappe.archive.follow import AT_ONCE, WAIT, begin_at, loss_of, loss_since, refuse_no_since
from chappe.connection import Connection
from chappe.engines.contract.archive import Archive
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
        self._connection = connection
        self.queue = queue
        self._exchange = exchange
        self._pattern = pattern
        self._since = since
        self._now = now
        self._name = f"@queue:{queue}"  # no application is called so
        self._begun: Connection | None = None
        self._position = self._kept = -1
        self._is_first = False

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
        connection = await self._connection()
        store = connection.store
        if self._position < 0 or connection is not self._begun:
            await self._begin(store)
            self._begun = connection
        before = self._position
        page = await store.archived(before, AT_ONCE, pattern=self._pattern if self._exchange.kind == "topic" else "#", wait=wait)
        loss = loss_since(self._since, before, page) if self._is_first else loss_of(before, page)
        if loss:
            lost = loss if loss > 0 else "some"
            log.warning('%s events before seq %d do not come to queue "%s": they are kept no more', lost, page.cursor + 1, self.queue)
        name, kind = self._exchange.name, self._exchange.kind
        fitting = [r for r in page.records if r.exchange == name and passes(kind, self._pattern, r.routing_key)]
        receipts = await connection.broker.publish(
            [
                Publication(
                    r.envelope, self.queue, options=Options(idempotency_key=_ONCE.format(queue=self.queue, seq=r.seq, id=r.envelope.id))
                )
                for r in fitting
            ]
        )
        self._position, self._is_first = page.cursor, False
        if fitting or loss or abs(page.cursor - self._kept) >= AT_ONCE:
            await self._keep(store)
        if receipts and all(receipt.outcome == "duplicate" for receipt in receipts):
            self._position = -1  # another process is further: go on from there
            await asyncio.sleep(_STEPS_BACK if wait else 0.0)
        return page.cursor != before

    async def _begin(self, archive: Archive) -> None:
        kept, since = (await archive.followers()).get(self._name), self._since
        self._is_first = kept is None
        if kept is None:
            since = datetime.fromtimestamp(self._now(), UTC) - since if isinstance(since, timedelta) else since
            self._position = await begin_at(archive, since)
            await self._keep(archive)
        else:
            self._position = self._kept = kept

    async def _keep(self, archive: Archive) -> None:
        await archive.keep_position(self._name, self._position)
        self._kept = self._position
