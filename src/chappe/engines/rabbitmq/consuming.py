"""Receiving: what RabbitMQ pushes and what is kept beside it, larger priorities first, lent for as long as it is not settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from chappe.engines.contract.broker import Ack, Delivery, Refusal, Retry, Settlement
from chappe.engines.rabbitmq.channel import Channel
from chappe.engines.rabbitmq.kept import KeptConsumer, is_kept, is_stray
from chappe.engines.rabbitmq.pushed import Item
from chappe.engines.rabbitmq.pushing import Pushing, Ways, is_untouched
from chappe.errors import BrokerError, BrokerUnavailable, Rejected
from chappe.messages.topology import Queue

_AGAIN: Final = 0.1  # seconds between two tries to connect; RabbitMQ refuses queues that it has not found again since its start
_LOOK: Final = 1.0  # seconds after which somebody who waits looks by himself at what is kept
_NORMAL, _URGENT = 0, -1  # ranks: minus the smallest priority that is meant


class RabbitConsumer:
    """Receives from RabbitMQ over a connection of its own, which it opens again when that is lost, and what is kept of the same queues."""

    def __init__(
        self, queues: Sequence[str], prefetch: int, *, temporary: Sequence[Queue], kept: KeptConsumer, ways: Ways, patience: float
    ) -> None:
        """Prepare a consumer of these queues, and of temporary ones; it connects with its first `receive`."""
        self._arrived = asyncio.Event()
        self.pushing = Pushing(queues, temporary, kept=kept, ways=ways, arrived=self._arrived, told=self._told)
        self._subscriptions = self.pushing.subscriptions
        self._publish = ways.publish
        self._out = self.pushing.out
        self._kept = kept
        self._kept.elsewhere = lambda: len(self._out)
        self._kept.on_ready = self._told
        self._may_be_kept = bool(queues)  # whether something may be ready of the usual priority or a larger one
        self._may_be_less = bool(queues)  # or of a smaller one
        self._kept_first = False
        self._cancelled: Callable[[int], None] = lambda _: None
        self._looks_at = 0.0
        self._patience = patience
        self._prefetch = prefetch
        self._lent: set[int] = set()  # of what is kept; what nobody waited for is held too, until it is given back
        self._asked = 0
        self._stops = 0
        self._has_shrunk = False  # RabbitMQ may still push as much as before
        self._closed = False

    def on_cancel(self, told: Callable[[int], None]) -> None:
        self._cancelled = told
        self._kept.on_cancel(told)

    def cancel(self, message_id: str) -> bool:
        """Tell of a message of RabbitMQ that is out that somebody cancels it, and whether there was one."""
        found = [item for item in self._out.values() if item.envelope.id == message_id]
        for item in found:
            if not item.is_cancelled:
                item.is_cancelled = True
                self._cancelled(item.tag)
        return bool(found)

    def resize(self, prefetch: int) -> None:
        self._has_shrunk |= prefetch < self._prefetch
        self._prefetch = prefetch

    def holds(self, delivery: int) -> bool:
        return delivery in self._out if is_stray(delivery) else self._kept.holds(delivery)

    def stop(self) -> None:
        """Have a waiting `receive` answer at once."""
        self._stops += 1
        self._arrived.set()

    # --- what others ask

    def queue_of(self, tag: int) -> str | None:
        """Return the queue of a delivery of RabbitMQ that is out, but for temporary ones."""
        item = self._out.get(tag)
        return None if item is None else item.queue

    # --- receiving

    async def receive(self, limit: int, wait: float) -> list[Delivery]:
        limit = min(limit, self._room() - self._asked)
        if limit <= 0 or self._closed:
            return []
        self._asked += limit
        try:
            with self.pushing.awaited():
                got = await self._receive(limit, asyncio.get_running_loop().time() + wait)
                self._lent.update(delivery.tag for delivery in got if not is_stray(delivery.tag))
                return got
        finally:
            self._asked -= limit

    def _room(self) -> int:
        self._lent = {tag for tag in self._lent if self._kept.holds(tag)}
        return self._prefetch - len(self._out) - len(self._lent)

    async def _receive(self, limit: int, deadline: float) -> list[Delivery]:
        loop, stops = asyncio.get_running_loop(), self._stops
        patience = loop.time() + self._patience
        while not self._closed and stops == self._stops:
            self._arrived.clear()
            try:
                await self._look()
                if not self._kept.is_alone:
                    await self._subscriptions.ask(lambda: self._asked)
                got = await self._take(limit)
            except BrokerUnavailable:
                if loop.time() >= patience:
                    raise
                await asyncio.sleep(_AGAIN)
                continue
            patience = loop.time() + self._patience
            if got:
                return got
            left = deadline - loop.time()
            if left <= 0:
                break
            if self._subscriptions.queues:
                await self._kept.attend()
                left = min(left, max(0.0, self._looks_at - loop.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrived.wait()
        return []

    def _told(self) -> None:
        self._looks_at = 0.0
        self._arrived.set()

    async def _look(self) -> None:
        """Look at what is kept and which queues are paused, if somebody told that there is something new, or after a while."""
        now = asyncio.get_running_loop().time()
        if now < self._looks_at or not self._subscriptions.queues:
            return
        self._may_be_kept = self._may_be_less = True
        self._looks_at = now + _LOOK
        paused = await self._kept.paused()
        begun, self._subscriptions.paused = paused - self._subscriptions.paused, paused
        for queue in begun:
            await self.pushing.let_go(queue)

    async def _take(self, limit: int) -> list[Delivery]:
        """Lend on what is here and what is kept: larger priorities first, and of the usual one both in turn."""
        taken: list[Delivery] = []
        try:
            await self._take_both(taken, limit)
        except BaseException:
            if taken:
                self.pushing.begin(self._give_back(taken))
            raise
        return taken

    async def _take_both(self, taken: list[Delivery], limit: int) -> None:
        first = _NORMAL if self._kept_first else _URGENT
        self._kept_first = not self._kept_first
        if self._may_be_kept or self._kept.is_alone:
            taken += await self._claim(limit, first)
            if self._kept.is_alone:
                await self.pushing.make_room()
                return
        taken += self.pushing.take(limit - len(taken))
        if self._may_be_kept and first == _URGENT and len(taken) < limit:
            taken += await self._claim(limit - len(taken), _NORMAL)
        if self._may_be_less and not taken:  # what has a smaller priority comes after all that is pushed
            await self._subscriptions.came()
            taken += self.pushing.take(limit)
            if not taken:
                self._may_be_less = False
                taken += await self._kept.claim(limit)
                self._may_be_less |= bool(taken)

    async def _give_back(self, taken: Sequence[Delivery]) -> None:
        """Return what came for a `receive` that nobody waits for any more."""
        with contextlib.suppress(BrokerError):
            await self.settle([Retry(delivery.tag, 0.0, counted=False) for delivery in taken])

    async def _claim(self, room: int, most: int) -> list[Delivery]:
        found = await self._kept.claim(room, most)
        if most == _NORMAL and len(found) < room and not self._kept.is_alone:
            self._may_be_kept = self._looks_at == 0.0  # somebody told meanwhile
        return found

    # --- settling

    async def settle(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        if self._has_shrunk:
            self._has_shrunk = False
            await self.pushing.shrink(self._prefetch)
        kept = [settlement for settlement in settlements if not is_stray(settlement.delivery)]
        refusals = await self._kept.settle(kept) if kept else []
        if len(kept) < len(settlements):
            refusals += await self._settle_pushed([settlement for settlement in settlements if is_stray(settlement.delivery)])
        elif not self._out:
            self._arrived.set()  # what runs alone may begin
        return refusals

    async def _settle_pushed(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        refusals: list[Refusal] = []
        by_way: dict[str, list[tuple[Settlement, Item]]] = {way: [] for way in ("back", "here", "publish", "move")}
        seen: set[int] = set()
        done: list[Item] = []
        for settlement in settlements:
            tag = settlement.delivery
            item = self._out.get(tag) if tag not in seen else None
            if item is None:
                refusals.append(Refusal(tag, "stale", "this consumer does not hold the delivery, or settled it already"))
            elif isinstance(settlement, Ack) and not settlement.then and not settlement.marked:
                done.append(self._out.pop(tag))  # most end so
            else:
                way = self._way_of(settlement, item)
                by_way[way].append((settlement, item))
                seen.add(tag)
                if way in ("back", "here"):
                    del self._out[tag]
        back = [item for _, item in by_way["back"]]
        ended: defaultdict[Channel, list[int]] = defaultdict(list)
        self._end(done, ended)  # at once: a number is of this connection only
        for settlement, item in by_way["here"]:
            self.pushing.settle_temporary(settlement, item)
        await self.pushing.give_back(back)
        unsure: list[BaseException] = []
        if by_way["publish"]:
            refusals += await self._settle_publishing(by_way["publish"], ended, unsure)
        if by_way["move"]:
            refusals += await self._settle_moving(by_way["move"])
        for channel, tags in ended.items():
            try:
                await channel.sync()
            except BrokerUnavailable as error:
                refusals += [Refusal(tag, "stale", f"{error}; the message may come again") for tag in tags]
        if unsure:
            raise unsure[0]  # what ended meanwhile is refused as stale when it is said again
        return refusals

    def _way_of(self, settlement: Settlement, item: Item) -> str:
        """Tell how a message ends that does not just end: after something was published, or it was moved, or RabbitMQ has it back."""
        if isinstance(settlement, Ack):
            return "move" if settlement.marked or any(is_kept(p) for p in settlement.then) else "publish"
        if isinstance(settlement, Retry) and is_untouched(settlement) and item.is_unsettled:
            return "back"
        return "move" if item.source.temporary is None else "here"

    async def _settle_publishing(
        self, publishing: Sequence[tuple[Settlement, Item]], ended: defaultdict[Channel, list[int]], unsure: list[BaseException]
    ) -> list[Refusal]:
        """Publish what RabbitMQ takes, and only then have it forget; `ended` gets their tags, `unsure` what nobody knows the outcome of."""
        refusals: list[Refusal] = []
        done: list[Item] = []
        outcomes = await asyncio.gather(
            *(self._publish(ack.then, item.noted()) for ack, item in publishing if isinstance(ack, Ack)), return_exceptions=True
        )
        for (ack, item), outcome in zip(publishing, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                refusals.append(Refusal(ack.delivery, "unroutable", str(outcome)))
            elif isinstance(outcome, BaseException):
                unsure.append(outcome)
            elif self._out.pop(ack.delivery, None) is not None:
                done.append(item)
            else:
                refusals.append(Refusal(ack.delivery, "stale", "the delivery was lost while its messages were published"))
        self._end(done, ended)
        return refusals

    def _end(self, done: Sequence[Item], ended: defaultdict[Channel, list[int]]) -> None:
        """Have RabbitMQ forget these, and note over which channel it was told."""
        for item in done:
            if item.source.channel is not None:
                ended[item.source.channel].append(item.tag)
        self.pushing.end(done, [])

    async def _settle_moving(self, moving: Sequence[tuple[Settlement, Item]]) -> list[Refusal]:
        """Have them end where things are kept, and only then have RabbitMQ forget."""
        refusals = await self._kept.settle_strays([settlement for settlement, _ in moving], [item for _, item in moving])
        refused = {refusal.delivery for refusal in refusals}
        self.pushing.end([item for _, item in moving if item.tag not in refused and self._out.pop(item.tag, None) is not None], [])
        return refusals

    # --- its end

    async def close(self) -> None:
        """Return what is out, at once and without counting an attempt."""
        self._closed = True
        self.stop()
        await self.pushing.close()
