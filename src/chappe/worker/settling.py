"""How the endings of messages leave a worker: in batches, beside what runs, each said until the broker has heard it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable

import msgspec

from chappe.bus.context import Ports
from chappe.bus.loop import OwnTask
from chappe.bus.merging import Merger
from chappe.engines.contract.broker import Ack, Consumer, Dead, Refusal, Retry, Settlement
from chappe.errors import BrokerUnavailable, NotFound, StorageFull, TopologyConflict, Unconfirmed
from chappe.failures import describe, summarize

log = logging.getLogger("chappe.worker")

NOT_READY_PAUSE = 5.0
REFUSED_PAUSE = 0.5
_REFUSALS = 3
_MEASURE = 0.05


class Settler:
    """Settles what is put into `waiting`, a batch at a time, soon after `soon` was called."""

    def __init__(
        self, consumer: Consumer, merging: Merger, ports: Ports, *, after: Callable[[], None], settled: Callable[[], None]
    ) -> None:
        """Prepare; `after` is called when a batch has left, `settled` when the broker has heard one."""
        self._consumer = consumer
        self._merging = merging
        self._ports = ports
        self._after = after
        self._settled = settled
        self.waiting: list[Settlement] = []  # the same list for ever: it is written to for each message
        self.is_due = False
        self.is_ending = False  # whether what cannot be settled now never will be
        self.rate = 0.0  # messages a second
        self.under_way = 0  # batches
        self._heard = asyncio.Event()
        self._measured_at = time.monotonic()
        self._measured = 0
        self._loop = asyncio.get_running_loop()
        self._nobody = contextvars.Context()  # of no attempt

    def soon(self) -> None:
        """Have what waits leave in the next turn of the event loop."""
        if not self.is_due:
            self.is_due = True
            self._loop.call_soon(self.flush, context=self._nobody)

    async def settle_all(self) -> None:
        """Settle all that waits, and return when the broker has heard it or never will."""
        while self.waiting or self.under_way:
            self.flush()
            self._heard.clear()
            await self._heard.wait()

    def flush(self) -> None:
        """Have what waits leave now."""
        self.is_due = False
        if self.waiting:
            batch = self.waiting.copy()
            self.waiting.clear()
            self.under_way += 1
            self._measure(len(batch))
            by_tag = {settlement.delivery: settlement for settlement in batch}
            OwnTask(self._settle(by_tag, by_tag), loop=self._loop).add_done_callback(self._batch_settled)
        self._after()

    def _batch_settled(self, task: asyncio.Task[None]) -> None:
        self.under_way -= 1
        self._heard.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("settling failed: %s; the broker delivers these messages again", summarize(error))
        self._settled()

    async def _settle(self, originals: dict[int, Settlement], tried: dict[int, Settlement]) -> None:
        """Say the settlements until each is heard; one that cannot be stored as it is becomes a failed attempt, and no other with it."""
        refused = 0
        while tried:
            try:
                if any(isinstance(settlement, Ack) and settlement.then for settlement in tried.values()):
                    await self._declare()
                refusals = await self._consumer.settle(list(tried.values()))
            except (BrokerUnavailable, Unconfirmed, StorageFull) as error:
                if self.is_ending:
                    raise
                log.error("cannot settle: %s; trying again", error)
                await asyncio.sleep(REFUSED_PAUSE)
            except Exception as error:  # also of what cannot be encoded: a result or a text that a handler made
                if len(tried) > 1:
                    entries = list(tried.items())
                    await self._settle(originals, dict(entries[: len(entries) // 2]))
                    await self._settle(originals, dict(entries[len(entries) // 2 :]))
                    return
                refused += 1
                if self.is_ending or refused > 2 * _REFUSALS:
                    raise
                log.error("cannot settle: %s; trying again", error)
                if refused >= _REFUSALS:
                    tried = {tag: Retry(tag, NOT_READY_PAUSE, error=describe(error)) for tag in tried}
                await asyncio.sleep(REFUSED_PAUSE)
            else:
                again = ((r.delivery, self._after_refusal(r, originals[r.delivery], tried[r.delivery])) for r in refusals)
                tried = {tag: settlement for tag, settlement in again if settlement is not None}

    async def _declare(self) -> None:
        """Have what a handler sent for the first time be routable; what cannot be declared is refused with its own message."""
        try:
            await self._ports.declare()
        except (TopologyConflict, NotFound) as error:
            log.error("what a handler sent cannot be declared: %s", error)

    def _after_refusal(self, refusal: Refusal, original: Settlement, tried: Settlement) -> Settlement | None:
        if refusal.why == "pending" and isinstance(original, Ack) and isinstance(tried, Ack):
            try:
                return msgspec.structs.replace(tried, then=self._merging.merged(original.then, tried.then, refusal.receipts))
            except Exception as error:  # the merge is the user's code, and the pending body may be of another version
                log.error("what a handler yielded cannot be merged with what is pending: %s", summarize(error), exc_info=error)
                return Retry(refusal.delivery, NOT_READY_PAUSE, error=describe(error))
        if refusal.why == "unroutable":
            log.error("what a handler yielded cannot be routed: %s", refusal.text)
            return Dead(refusal.delivery, "unroutable", refusal.text)
        log.warning("a late settlement was refused: %s", refusal.text)
        return None

    def _measure(self, ended: int) -> None:
        self._measured += ended
        now = time.monotonic()
        passed = now - self._measured_at
        if passed >= _MEASURE:
            self.rate = max(self._measured / passed, self.rate / 2)
            self._measured, self._measured_at = 0, now
