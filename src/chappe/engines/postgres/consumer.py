"""Receives from PostgreSQL: claims what is ready, waits to be told where nothing is, and settles."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import uuid4

from chappe.engines.contract.broker import Dead, Delivery, Refusal, Retry, Settlement
from chappe.engines.contract.stray import MARK, Stray
from chappe.engines.postgres.adopting import adopt
from chappe.engines.postgres.blame import REMEMBERED, Blame
from chappe.engines.postgres.claims import ALL, CLAIM, CLAIM_ALONE, PAUSED_OF, READY_IN, Floors, Held, delivery_of, held_of
from chappe.engines.postgres.database import Cursor, Database, Row
from chappe.engines.postgres.endings import Endings
from chappe.engines.postgres.presence import CANCELLED as TOLD_CANCELLED
from chappe.engines.postgres.presence import READY as TOLD_READY
from chappe.engines.postgres.presence import Presence
from chappe.engines.postgres.routes import Known, Routes
from chappe.engines.postgres.rows import ALONE, READY, SUSPECT
from chappe.engines.postgres.tenants import Tenants
from chappe.errors import BrokerError, BrokerUnavailable, NotFound, Unconfirmed
from chappe.messages.topology import Queue, Topology

log = logging.getLogger("chappe.postgres")

_LOOK: Final = 1.0  # seconds after which somebody who waits looks by himself
_WAIT: Final = "insert into waiter select unnest(%s::integer[]), %s on conflict do nothing"
_WAIT_NO_MORE: Final = "delete from waiter where session = %s"
_LOOK_FOR_SUSPECTS: Final = 2.0  # seconds between two looks of one that is never idle
_MOST_AT_ONCE: Final = 1000
_LATER: Final = 0.025  # seconds after which those look who wait too, but were not named


class Parts(NamedTuple):
    """What a consumer needs of its broker; `take_back` has nothing held any more by a session that is gone."""

    database: Database
    routes: Routes
    presence: Presence
    endings: Endings
    blame: Blame
    take_back: Callable[[], Awaitable[None]]


class PostgresConsumer:
    """Receives from some queues; what it holds is its session's."""

    def __init__(
        self, parts: Parts, queues: Sequence[str], prefetch: int, temporary: Sequence[Queue] = (),
    ) -> None:  # fmt: skip
        self._database, self._routes, self._presence, self._endings, self._blame, self._take_back = parts
        self._temporary = {f"{queue.name}.{uuid4().hex}": queue for queue in temporary}
        self._names = (*queues, *self._temporary)
        self._prefetch = prefetch
        self._out: dict[int, Held] = {}
        self._asked = 0
        self._turn = 0
        self._closed = False
        self._stopped = False
        self._waits = False  # whether others were told that this session waits
        self._makes = False
        self._is_alone = False
        self._looks_at = 0.0
        self._told = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        self._floors = Floors(asyncio.get_running_loop().time)
        self._tenants = Tenants(asyncio.get_running_loop().time)
        self._claims: set[asyncio.Task[list[Delivery]]] = set()
        self._given_up: set[asyncio.Task[None]] = set()
        self._for_suspects = bool(self._presence.info.get("suspects"))
        self._cancelled: Callable[[int], None] = lambda _: None
        self.elsewhere: Callable[[], int] = int  # how many deliveries are out of the broker beside this one
        self.on_ready: Callable[[], None] = self._told.set
        self._presence.on_told.append(self._hear)
        self._presence.on_entered.append(self._entered)
        self._presence.holders.append(self.held)

    def resize(self, prefetch: int) -> None:
        self._prefetch = prefetch

    def holds(self, delivery: int) -> bool:
        return delivery in self._out

    def on_cancel(self, told: Callable[[int], None]) -> None:
        self._cancelled = told

    def held(self) -> list[int]:
        """Return the places of everything that is out."""
        return list(self._out)

    def stop(self) -> None:
        self._stopped = True
        self.on_ready()

    async def open(self) -> None:
        """Make the temporary queues; safe to repeat."""
        session = await self._presence.number()
        if self._temporary:
            topology = Topology(queues=tuple(Queue(name, queue.bindings, queue.origin) for name, queue in self._temporary.items()))
            await self._database.run(lambda cursor: self._routes.declare(cursor, topology, session))

    # --- receiving

    async def receive(self, limit: int, wait: float) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        self._stopped = False
        while not self._closed:
            room = min(limit, self._prefetch - len(self._out) - self._asked, _MOST_AT_ONCE)
            if room <= 0 and self._given_up:  # what comes of them is given back
                await asyncio.wait(self._given_up)
                continue
            if room <= 0:
                return []
            self._told.clear()
            if found := await self._claim_shielded(room):
                return found
            left = until - loop.time()
            if left <= 0 or self._stopped or self._closed:
                return []
            if not self._waits:
                await self._wait_to_be_told()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK)):
                    await self._told.wait()
        return []

    async def paused(self) -> set[str]:
        """Return those of its queues of which nothing is to be lent."""
        return {name for (name,) in await self._database.once(PAUSED_OF, (list(self._names),), repeatable=True)}

    async def claim(self, room: int, most: int = ALL) -> list[Delivery]:
        """Return what is ready now, up to a number of deliveries; none whose rank is larger than `most`, which is minus a priority."""
        return [] if self._closed else await self._claim_shielded(min(room, _MOST_AT_ONCE), most)

    @property
    def is_alone(self) -> bool:
        """Whether nothing else may be out: what this consumer holds, or is about to take, runs alone."""
        return self._makes or self._is_occupied

    @property
    def _is_occupied(self) -> bool:
        return any(held.flags & SUSPECT for held in self._out.values())

    def _is_free(self) -> bool:
        return not self._out and not self.elsewhere()

    async def _claim_shielded(self, room: int, most: int = ALL) -> list[Delivery]:
        """Claim, and give back what comes after this was cancelled."""
        self._asked += room
        claim = asyncio.get_running_loop().create_task(self._claim(room, most))
        self._claims.add(claim)
        claim.add_done_callback(self._claims.discard)

        def asked_no_more(_: Any) -> None:
            self._asked -= room

        claim.add_done_callback(asked_no_more)
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            back = asyncio.get_running_loop().create_task(self._return(claim))
            self._given_up.add(back)
            back.add_done_callback(self._given_up.discard)
            raise

    async def _return(self, claim: asyncio.Task[list[Delivery]]) -> None:
        """Give back what came for a `receive` that nobody waits for any more."""
        with contextlib.suppress(BrokerError):
            await self._give_back([delivery.tag for delivery in await claim])

    async def _give_back(self, tags: Iterable[int]) -> None:
        if back := [Retry(tag, 0.0, counted=False) for tag in tags if tag in self._out]:
            await self.settle(back)

    async def _claim(self, room: int, most: int) -> list[Delivery]:
        await self._presence.number()
        if self._is_occupied:
            return []  # what is out runs alone
        queues = [known for name in self._names if (known := await self._known(name)) is not None]
        if await self._makes_room(queues):
            return []
        queues = queues[self._turn :] + queues[: self._turn]
        self._turn = (self._turn + 1) % max(1, len(self._names))
        if len(queues) > 1:
            states = [ALONE] if self._for_suspects else [READY, ALONE] if self._is_free() else [READY]
            ready = {int(row[0]) for row in await self._database.once(READY_IN, ([known.id for known in queues], states), repeatable=True)}
            queues = [known for known in queues if known.id in ready]
        deliveries: list[Delivery] = []
        alone, self._is_alone = self._is_alone or self._for_suspects, False
        try:
            for known in queues:
                session = await self._presence.number()  # a claim whose answer was lost begins another
                if not alone:
                    deliveries += await self._claim_of(known, room - len(deliveries), session, most)
                if not deliveries and self._is_free():
                    deliveries += await self._claim_alone(known, session)
                if len(deliveries) >= room or any(d.tag in self._out and self._out[d.tag].flags & SUSPECT for d in deliveries):
                    break
        except BrokerError:
            if not deliveries:
                raise  # else what came before would be held for ever, and given to nobody
        return deliveries

    async def _makes_room(self, queues: Sequence[Known]) -> bool:
        """Tell whether this consumer takes nothing, so that it can take what must run alone; looked for now and then."""
        now = asyncio.get_running_loop().time()
        if now >= self._looks_at and not self._for_suspects:
            self._looks_at = now + _LOOK_FOR_SUSPECTS
            self._makes = bool(await self._database.once(READY_IN, ([known.id for known in queues], [ALONE]), repeatable=True))
        if self._makes and self._is_free():
            self._makes, self._is_alone = False, True
        return self._makes

    async def _known(self, name: str) -> Known | None:
        known = self._routes.queues.get(name)
        if known is None:
            await self._database.run(self._routes.refresh, writes=False)
            known = self._routes.queues.get(name)
            if known is None and name in self._temporary:
                log.warning("a temporary queue is gone, after a silence of this process or by hand: it is made anew, what came is missed")
                await self.open()
                return None
            if known is None:
                self._routes.queue(name)  # raises `NotFound`
        return known

    async def _claim_of(self, known: Known, limit: int, session: int, most: int) -> list[Delivery]:
        if known.queue.fair:
            fairly = self._database.run(lambda cursor: self._tenants.claim(cursor, known.id, limit, session, most), soon=True)
            return self._took(await self._heard(fairly), known)
        rank, floor = self._floors.of(known.id)
        values = {"queue": known.id, "limit": limit, "session": session, "rank": rank, "floor": floor, "most": most}
        rows = await self._heard(self._database.once(CLAIM, values, soon=True))
        if most == ALL or len(rows) == limit:
            self._floors.claimed(known.id, rows, limit)
        return self._took(rows, known)

    async def _claim_alone(self, known: Known, session: int) -> list[Delivery]:
        alone = self._database.once(CLAIM_ALONE, {"queue": known.id, "session": session}, soon=True)
        return self._took(await self._heard(alone), known)

    async def _heard(self, claim: Awaitable[list[Row]]) -> list[Row]:
        """Return what a claim brings; of one whose answer was lost nobody knows, and so it is no longer this session's."""
        try:
            return await claim
        except Unconfirmed:
            await self._presence.renew()
            return []

    def _took(self, rows: list[tuple[Any, ...]], known: Known) -> list[Delivery]:
        temporary = self._temporary.get(known.queue.name)
        name = known.queue.name if temporary is None else temporary.name
        self._out.update(held_of(row, known.id, known.queue.name) for row in rows)
        return [delivery_of(row, name) for row in rows]

    # --- what the broker beside this one lent

    async def blamed(self, strays: Sequence[Stray]) -> set[int]:
        """Return the tags of those with which workers died, as soon as all that have died are told of."""
        await self._take_back()
        rows = await self._database.once(REMEMBERED, ([stray.tag >> MARK for stray in strays],), repeatable=True)
        marks = {int(mark) for (mark,) in rows}
        return {stray.tag for stray in strays if stray.tag >> MARK in marks}

    async def adopt(self, strays: Sequence[Stray]) -> None:
        """Take over what workers died with: it waits until it runs alone, or is a dead letter."""
        known = await self._queues_of(strays)

        async def work(cursor: Cursor) -> None:
            await self._blame.recall(cursor, await adopt(cursor, strays, known, None))

        await self._database.run(work, repeatable=True)

    async def settle_strays(self, settlements: Sequence[Settlement], strays: Sequence[Stray]) -> list[Refusal]:
        """End deliveries of the broker beside this one, by their tags there; what is not refused is in this database, or done."""
        known = await self._queues_of(strays)
        return await self._endings.settle_strays(await self._presence.number(), settlements, {s.tag: s for s in strays}, known)

    async def _queues_of(self, strays: Sequence[Stray]) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for name in {stray.queue for stray in strays if stray.queue is not None}:
            known = await self._known(name)
            assert known is not None, "it is no temporary queue"
            numbers[name] = known.id
        return numbers

    # --- being told

    async def attend(self) -> None:
        """Have `on_ready` called when there is something in one of the queues."""
        if not self._waits:
            await self._wait_to_be_told()

    async def _wait_to_be_told(self) -> None:
        session = await self._presence.number()
        queues = [known.id for name in self._names if (known := self._routes.queues.get(name)) is not None]
        await self._database.once(_WAIT, (queues, session), repeatable=True)
        self._waits = True

    def _hear(self, channel: str, payload: str) -> None:
        if channel == TOLD_CANCELLED and int(payload) in self._out:
            self._cancelled(int(payload))
        if channel == TOLD_READY:
            queue, _, sessions = payload.partition(" ")
            known = self._routes.by_id.get(int(queue))
            if known is not None and known.queue.name in self._names:
                self._floors.forget(known.id)
                if self._presence.is_named(sessions):
                    self.on_ready()
                elif self._later is None:
                    pause = random.uniform(_LATER, 4 * _LATER)
                    self._later = asyncio.get_running_loop().call_later(pause, self._look_later)

    def _look_later(self) -> None:
        self._later = None
        self.on_ready()

    def _entered(self, kept: set[int]) -> None:
        """Hear that the connection which shows that this process lives was made anew: others may have what is not in `kept`."""
        self._waits = False
        for tag in [tag for tag in self._out if tag not in kept]:
            del self._out[tag]
        self.on_ready()

    # --- settling

    async def settle(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        first = {s.delivery: s for s in reversed(settlements) if s.delivery in self._out}
        known = list(reversed(first.values()))
        stale = [
            Refusal(s.delivery, "stale", "this consumer does not hold the delivery") for s in settlements if first.get(s.delivery) is not s
        ]
        if not known:
            return stale
        for settlement in known if self._temporary else ():
            queue = self._temporary.get(self._out[settlement.delivery].name)
            if queue is not None and isinstance(settlement, Dead):
                log.error('a message is dropped (%s): a temporary queue like "%s" has no dead letters', settlement.reason, queue.name)
        held = {s.delivery: self._out[s.delivery] for s in known}
        refusals: list[Refusal] = []
        left: Sequence[Settlement] = known
        while left:
            session = await self._presence.number()
            said = await self._endings.settle(session, left, held)
            lost = {r.delivery for r in said if r.why == "stale"} if session != await self._presence.number() else set[int]()
            refusals += [r for r in said if r.delivery not in lost]
            left = [s for s in left if s.delivery in lost]  # another session of ours holds it meanwhile, or nobody
        for retry in known:
            if isinstance(retry, Retry) and retry.after <= 0:
                self._floors.forget(held[retry.delivery].queue)
        kept = {r.delivery for r in refusals if r.why != "stale"}
        for settlement in known:
            if settlement.delivery not in kept:
                self._out.pop(settlement.delivery, None)
        if self._makes and not self._out:
            self.on_ready()
        return stale + refusals

    async def close(self) -> None:
        """Give back what is out, at once and without counting an attempt; safe to repeat."""
        if self._closed:
            return
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        self.on_ready()
        if running := self._claims | self._given_up:
            await asyncio.wait(running)
        try:
            await self._give_back(list(self._out))
            if self._temporary or self._waits:
                await self._database.run(self._leave)
        except (BrokerUnavailable, Unconfirmed, NotFound):
            pass  # whoever tends the queues does it when this session is gone
        self._out.clear()
        self._presence.on_told.remove(self._hear)
        self._presence.on_entered.remove(self._entered)
        self._presence.holders.remove(self.held)

    async def _leave(self, cursor: Cursor) -> None:
        await cursor.execute(_WAIT_NO_MORE, (await self._presence.number(),))
        names = [known.id for name in self._temporary if (known := self._routes.queues.get(name)) is not None]
        if names:
            await self._routes.remove_temporary(cursor, names)
