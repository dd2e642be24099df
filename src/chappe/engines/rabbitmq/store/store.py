"""The store contract kept by PostgreSQL, for any number of hosts at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, LiteralString, Protocol, cast

import msgspec

from chappe.bounds import CLOCKS_APART
from chappe.engines.contract.archive import Page
from chappe.engines.contract.fleet import ClientStatus, Desired, EngineStatus, Overview, QueueStatus
from chappe.engines.contract.letters import Exported, Letter
from chappe.engines.contract.results import Merge, Start, State
from chappe.engines.rabbitmq.outbox import Ticket
from chappe.engines.rabbitmq.store.database import Cursor, Database
from chappe.engines.rabbitmq.store.intake import Intake
from chappe.engines.rabbitmq.store.kept import Kept
from chappe.engines.rabbitmq.store.letters import Letters
from chappe.engines.rabbitmq.store.presence import ALIVE, LIVES, Presence
from chappe.engines.rabbitmq.store.routes import Routes
from chappe.engines.rabbitmq.store.transfer import Transfer
from chappe.errors import NotFound, Rejected
from chappe.messages.envelope import Publication, Receipt

_KEEP: Final = "insert into follower values (%s, %s) on conflict (name) do update set position = excluded.position returning 1"
_LEAVE_OUT: Final = "update schedule_definition set definition = null where application = %s and definition is not null and name <> all(%s)"
_BEGIN: Final = """
    with begun as (
        insert into schedule_definition select name, %s, definition from unnest(%s::text[], %s::text[]) as given (name, definition)
        on conflict (name) do update set application = excluded.application, definition = excluded.definition
        where (schedule_definition.application, schedule_definition.definition)
            is distinct from (excluded.application, excluded.definition)
        returning name
    )
    insert into schedule select name, %s from begun on conflict (name) do update set slot =
        case when schedule.slot > excluded.slot + %s then excluded.slot else greatest(schedule.slot, excluded.slot) end
"""
_FIRE: Final = """
    insert into schedule values (%s, %s) on conflict (name) do update set slot = excluded.slot where schedule.slot < excluded.slot
"""
_WHERE: Final[LiteralString] = (
    "select case when state = 2 and not " + ALIVE + " then 1 else state end from message where message_id = %s order by 1 desc limit 1"
)

_SESSIONS: Final[LiteralString] = (
    "select number, name, role, info, started_at from session"
    " where exists (select 1 from pg_locks where " + LIVES + " and objid::bigint = number) order by number"
)

Send = Callable[[Sequence[Ticket]], Awaitable[None]]


class Counted(Protocol):
    """How many messages of a queue are in each state."""

    @property
    def ready(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def delayed(self) -> int: ...
    @property
    def dead(self) -> int: ...


class Look(Protocol):
    """What the store asks of the broker beside it."""

    async def send(self, tickets: Sequence[Ticket]) -> None:
        """Send tickets, now or later."""
        ...

    async def archived(self, after: int, limit: int, pattern: str, wait: float) -> Page:
        """See `Store.archived`."""
        ...

    async def depths(self, queues: Sequence[str]) -> Mapping[str, Counted]:
        """Count the messages of queues."""
        ...

    async def holding(self) -> Mapping[int, int]:
        """Tell how many deliveries each session has."""
        ...

    async def consuming(self, queue: str) -> int:
        """Count the consumers of a queue."""
        ...

    async def about(self) -> str:
        """Tell which broker it is and where, for people."""
        ...


class PostgresStore:
    """What many hosts remember together; `send` sends tickets, and `read` reads the archive: both are the broker's."""

    def __init__(self, url: str, *, role: str = "client", deadline: float = 5.0) -> None:
        """Prepare a store inside a running event loop; it connects with its first verb."""
        self.database = Database(url, deadline=deadline)
        self.routes = Routes()
        self.presence = Presence(self.database, role=role)
        self.presence.on_ended = self._ended
        self.kept = Kept(self.database, self.routes, self.presence)
        self._intake = Intake(self.routes)
        self._letters = Letters(self.database, self.routes)
        self._transfer = Transfer(self.database, self.routes, self.presence)
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self.send: Send = _nowhere
        self.look: Look

    def join(self, look: Look) -> None:
        """Work beside this broker from now on."""
        self.look = look
        self.send = look.send

    async def close(self) -> None:
        """Leave, and close all connections."""
        await self.presence.close()
        await self.database.close()

    # --- marks, budgets, schedules

    async def mark(self, message_id: str, handler: str, then: Sequence[Publication] = (), result: bytes | None = None) -> list[Receipt]:
        async def work(cursor: Cursor) -> tuple[list[Receipt], list[Ticket]]:
            await cursor.execute("insert into mark values (%s, %s, %s) on conflict do nothing", (message_id, handler, result))
            if not cursor.rowcount:
                return [], []  # said again after an answer was lost
            return await self._whole(cursor, then)

        return await self._with_tickets(work)

    async def marks(self, message_id: str) -> Mapping[str, bytes | None]:
        async def work(cursor: Cursor) -> dict[str, bytes | None]:
            await cursor.execute("select handler, result from mark where message_id = %s", (message_id,))
            return {str(handler): result for handler, result in await cursor.fetchall()}

        return await self.database.run(work, writes=False)

    async def take(self, budget: str, interval: float, burst: int, *, within: float = 0.0, tag: int = 0) -> Start:
        async def work(cursor: Cursor) -> Start:
            room = interval * (burst - 1)
            await cursor.execute("select pg_advisory_xact_lock(hashtext('budget'), hashtext(%s))", (budget,))
            await cursor.execute("select tat, now_seconds() from budget where name = %s", (budget,))
            row = await cursor.fetchone()
            if row is None:
                await cursor.execute("select now_seconds(), now_seconds()")
                row = await cursor.fetchone()
            assert row is not None
            tat, now = row
            start = max(now, tat - room)
            if start - now > within:
                return Start(granted=False, wait=float(start - now))
            await cursor.execute(
                "insert into budget values (%s, %s) on conflict (name) do update set tat = excluded.tat",
                (budget, max(tat, start) + interval),
            )
            return Start(granted=True, wait=float(start - now))

        return await self.database.run(work)

    async def throttle(self, budget: str, until: float) -> None:
        statement = "insert into budget values (%s, %s) on conflict (name) do update set tat = greatest(budget.tat, excluded.tat)"
        await self.database.run(lambda cursor: cursor.execute(statement, (budget, until)))

    async def begin_schedules(self, application: str, definitions: Mapping[str, str], now: float) -> None:
        names = sorted(definitions)

        async def work(cursor: Cursor) -> None:
            await cursor.execute(_LEAVE_OUT, (application, names))
            await cursor.execute(_BEGIN, (application, names, [definitions[name] for name in names], now, CLOCKS_APART))
            await cursor.execute("insert into schedule select unnest(%s::text[]), %s on conflict do nothing", (names, now))

        await self.database.run(work)

    async def fire(self, schedule: str, slot: float, publications: Sequence[Publication], merge: Merge | None = None) -> bool:
        tried = publications
        while True:
            fired, receipts = await self._fire(schedule, slot, tried)
            if not receipts or merge is None:
                return fired
            tried = merge(tried, receipts)

    async def _fire(self, schedule: str, slot: float, publications: Sequence[Publication]) -> tuple[bool, list[Receipt]]:
        fired = False

        async def work(cursor: Cursor) -> tuple[list[Receipt], list[Ticket]]:
            nonlocal fired
            fired = False
            await cursor.execute(_FIRE, (schedule, slot))
            if not cursor.rowcount:
                return [], []
            whole = await self._whole(cursor, publications)
            fired = True
            return whole

        receipts = await self._with_tickets(work)
        return fired and not receipts, receipts

    async def last_fired(self, schedule: str) -> float | None:
        async def work(cursor: Cursor) -> float | None:
            await cursor.execute("select slot from schedule where name = %s", (schedule,))
            row = await cursor.fetchone()
            return None if row is None else float(row[0])

        return await self.database.run(work, writes=False)

    async def _whole(self, cursor: Cursor, publications: Sequence[Publication]) -> tuple[list[Receipt], list[Ticket]]:
        receipts, tickets = await self._intake.publish_whole(cursor, publications)
        if any(receipt.outcome == "pending" for receipt in receipts):
            raise _MergeFirst(receipts)
        return [], tickets

    async def _with_tickets(self, work: Callable[[Cursor], Awaitable[tuple[list[Receipt], list[Ticket]]]]) -> list[Receipt]:
        try:
            receipts, tickets = await self.database.run(work)
        except _MergeFirst as first:
            return first.receipts
        await self.send(tickets)
        return receipts

    # --- results

    async def state(self, message_id: str) -> State:
        async def work(cursor: Cursor) -> State:
            await cursor.execute(
                "select type, state, queue, result, error, progress, into_id from tracked where message_id = %s", (message_id,)
            )
            row = await cursor.fetchone()
            if row is None:
                raise NotFound.message(message_id)
            name, state, queue, result, error, progress, into = row
            if state not in ("done", "dead"):
                await cursor.execute(_WHERE, (into or message_id,))
                found = await cursor.fetchone()
                state = ("delayed", "ready", "running")[int(found[0])] if found else "ready"
            shown = cast("tuple[int, int, str]", tuple(msgspec.msgpack.decode(progress))) if progress else None
            return State(message_id, name, state, queue, result, error, shown, into)

        return await self.database.run(work, writes=False)

    async def result(self, message_id: str, wait: float) -> State:
        deadline = asyncio.get_running_loop().time() + wait
        await self.presence.number()
        ended = asyncio.Event()
        self._waiting[message_id].add(ended)
        try:
            while True:
                state = await self.state(message_id)
                left = deadline - asyncio.get_running_loop().time()
                if state.state in ("done", "dead") or left <= 0:
                    return state
                try:
                    async with asyncio.timeout(min(left, 1.0)):  # what is told may be lost with a connection: look again now and then
                        await ended.wait()
                except TimeoutError:
                    continue
                ended.clear()
        finally:
            self._waiting[message_id].discard(ended)
            if not self._waiting[message_id]:
                del self._waiting[message_id]

    def _ended(self, message_id: str) -> None:
        for waiting in self._waiting.get(message_id, ()):
            waiting.set()

    async def batch(self, batch: str, total: int) -> Mapping[str, int]:
        async def work(cursor: Cursor) -> Mapping[str, int]:
            await cursor.execute(
                "select case when state in ('done', 'dead') then state else 'waiting' end, count(*)"
                " from generate_series(0, %s::integer - 1) as number join tracked on message_id = %s::text || '.' || number group by 1",
                (total, batch),
            )
            return dict(await cursor.fetchall())

        return await self.database.run(work)

    async def progress(self, message_id: str, done: int, total: int, text: str) -> None:
        async def work(cursor: Cursor) -> None:
            await cursor.execute(
                "update tracked set progress = %s where message_id = %s or into_id = %s",
                (msgspec.msgpack.encode((done, total, text)), message_id, message_id),
            )

        await self.database.run(work)

    # --- dead letters

    async def letters(self, queue: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        return await self._letters.list(queue, after, limit)

    async def letter(self, number: int) -> Letter:
        return await self._letters.show(number)

    async def retry_letters(self, numbers: Sequence[int]) -> int:
        count, tickets = await self._letters.retry(numbers)
        await self.send(tickets)
        return count

    async def edit_letter(self, number: int, body: bytes) -> None:
        await self._letters.edit(number, body)

    async def discard_letters(self, numbers: Sequence[int]) -> int:
        return await self._letters.discard(numbers)

    # --- what is moved

    async def export_messages(self, queue: str, state: str, *, after: int = 0, later: float = 0.0, limit: int = 100) -> list[Exported]:
        return await self._transfer.export_messages(queue, state, after, later, limit)

    async def delete_delayed(self, queue: str, places: Sequence[int]) -> list[int]:
        return await self._transfer.delete_delayed(queue, places)

    async def import_letters(self, queue: str, letters: Sequence[Exported]) -> int:
        return await self._transfer.import_letters(queue, letters)

    # --- the archive, and what an operator asks

    async def archived(self, after: int, limit: int, *, pattern: str = "#", wait: float = 0.0) -> Page:
        return await self.look.archived(after, limit, pattern, wait)

    async def followers(self) -> Mapping[str, int]:
        row = await self.database.once("select coalesce(jsonb_object_agg(name, position), '{}')::text from follower", (), repeatable=True)
        return msgspec.json.decode(row[0] if row else "{}")

    async def keep_position(self, follower: str, position: int | None) -> None:
        if position is None:
            await self.database.once("delete from follower where name = %s returning 1", (follower,), repeatable=True)
        else:
            await self.database.once(_KEEP, (follower, position), repeatable=True)

    async def engine(self) -> EngineStatus:
        await self.presence.number()
        return EngineStatus(self.database.place, broker=await self.look.about())

    async def overview(self) -> Overview:
        async def work(cursor: Cursor) -> tuple[list[Any], str]:
            await self.routes.refresh(cursor)
            await cursor.execute(_SESSIONS)
            sessions = await cursor.fetchall()
            await cursor.execute("show server_version")
            row = await cursor.fetchone()
            return sessions, str(row[0]) if row else ""

        await self.presence.number()
        sessions, version = await self.database.run(work, writes=False)
        declared = dict(self.routes.queues)  # somebody may declare more meanwhile
        holding, depths = await self.look.holding(), await self.look.depths(list(declared))
        queues: list[QueueStatus] = []
        for name, known in sorted(declared.items()):
            depth, consumers = depths[name], await self.look.consuming(name)
            bindings = tuple((b.exchange, b.key) for b in known.queue.bindings)
            queues.append(QueueStatus(name, bindings, known.queue.origin, depth.ready, depth.running, depth.delayed, depth.dead, consumers))
        clients = [
            ClientStatus(name, role, holding.get(number, 0), msgspec.json.decode(info, type=dict[str, Any]), started)
            for number, name, role, info, started in sessions
        ]
        engine = EngineStatus(self.database.place, postgres=version, broker=await self.look.about())
        return Overview(engine, queues, list(self.routes.exchanges.values()), clients)

    async def tell(self, info: Mapping[str, Any]) -> None:
        self.presence.info = dict(info)
        number = await self.presence.number()
        await self.database.run(
            lambda cursor: cursor.execute("update session set info = %s where number = %s", (msgspec.json.encode(info), number))
        )

    async def desire(self, what: str, value: str | None, who: str) -> Desired:
        if what.startswith("queue:"):
            raise Rejected("a queue cannot be paused on RabbitMQ yet; pause the intake, or scale its pool to 0")

        async def work(cursor: Cursor) -> Desired:
            await cursor.execute(
                "insert into desired (what, value, who, at) values (%s, %s, %s, extract(epoch from clock_timestamp()))"
                " returning number, what, value, who, at",
                (what, value, who),
            )
            return Desired(*(await cursor.fetchall())[0])

        return await self.database.run(work)

    async def desired(self, *, after: int = 0, every: bool = False, limit: int = 1000) -> list[Desired]:
        async def work(cursor: Cursor) -> list[Desired]:
            await cursor.execute("select number, what, value, who, at from desired where number > %s order by number", (after,))
            rows = [Desired(*row) for row in await cursor.fetchall()]
            latest = {one.what: one.number for one in rows}
            return (rows if every else [one for one in rows if latest[one.what] == one.number])[-limit:]

        return await self.database.run(work, writes=False)


class _MergeFirst(Exception):
    """Takes a transaction back; it never leaves this file."""

    def __init__(self, receipts: list[Receipt]) -> None:
        self.receipts = receipts


async def _nowhere(_: Sequence[Ticket]) -> None:
    """Leave the tickets to whoever looks for those that were not sent."""
