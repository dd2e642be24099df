"""The store contract kept by PostgreSQL, beside its broker in the same database."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, LiteralString, Protocol, TypeVar, cast

import msgspec

from chappe.bounds import CLOCKS_APART
from chappe.engines.contract.archive import Page, Record
from chappe.engines.contract.broker import Depth
from chappe.engines.contract.fleet import PAUSED, QUEUE, TENANT, ClientStatus, Desired, EngineStatus, Overview, QueueStatus
from chappe.engines.contract.results import ENDED as HAVE_ENDED
from chappe.engines.contract.results import Merge, Start, State, ended_as
from chappe.engines.fairness import weight_of
from chappe.engines.postgres import archiving
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.budgets import Budgets
from chappe.engines.postgres.contents import Contents, Summary
from chappe.engines.postgres.database import Cursor
from chappe.engines.postgres.intake import MergeFirst
from chappe.engines.postgres.letters import Letters
from chappe.engines.postgres.looking import Looking
from chappe.engines.postgres.presence import ENDED, LIVES
from chappe.engines.postgres.rows import decode
from chappe.engines.postgres.storing import ARCHIVED, TELL
from chappe.engines.postgres.transfer import Transfer
from chappe.errors import NotFound
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Publication, Receipt
from chappe.messages.topology import passes

T = TypeVar("T")

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
_STATE: Final[LiteralString] = (
    """
    select t.type, t.state, t.queue, t.result, t.error, t.progress, t.into_id,
        (select case m.state when 0 then 'delayed' else 'ready' end from message m
            where m.message_id collate "C" = coalesce(t.into_id, t.message_id) and m.flags & 1 > 0 limit 1),
        (select 'running' from running r
            where r.message_id = coalesce(t.into_id, t.message_id) and r.flags & 1 > 0
                and exists (select 1 from pg_locks where """
    + LIVES
    + """ and objid::bigint = r.session) limit 1)
    from tracked t where t.message_id = %s
    """
)
_ASK: Final = "insert into asker values (%s, %s) on conflict do nothing"
_ASK_NO_MORE: Final = "delete from asker where message_id = %s and session = %s"
_BATCH: Final = """
    select case when state in ('done', 'dead') then state else 'waiting' end, count(*) from tracked
    where substr(message_id, 37, 1) = '.' and message_id collate "C" > %s and message_id collate "C" < %s group by 1
"""
_LAST_OF_BATCH: Final[LiteralString] = """
    select message_id from tracked where substr(message_id, 37, 1) = '.' and message_id collate "C" < {end}
    order by message_id collate "C" desc limit 1
"""
_BATCHES: Final[LiteralString] = (
    "with recursive found(batch, number) as (select left(last.message_id, -position('.' in reverse(last.message_id))), 1 from ("
    + _LAST_OF_BATCH.format(end="%s")
    + ") last union all select left(last.message_id, -position('.' in reverse(last.message_id))), number + 1 from found, lateral ("
    + _LAST_OF_BATCH.format(end="batch || '.'")
    + ") last where number < %s) select batch from found order by number"
)
_PROGRESS: Final = "update tracked set progress = %s where message_id = %s or into_id = %s"
_SESSIONS: Final[LiteralString] = (
    "select number, name, role, info, started_at, coalesce(holding, 0) from session"
    " left join (select session, count(*) as holding from running group by session) lent on session = number"
    " where exists (select 1 from pg_locks where " + LIVES + " and objid::bigint = number) order by number"
)
_DESIRE: Final = "insert into desired (what, value, who) values (%s, %s, %s) returning number, what, value, who, at"
_WEIGH: Final = """
    insert into weight values (%s, coalesce(%s::text::float8, 1)) on conflict (tenant) do update set weight = excluded.weight
"""
_LATEST: Final = """
    select number, what, value, who, at from (select distinct on (what) * from desired order by what, number desc) latest
    where number > %s order by number limit %s
"""
_EVERY: Final = """
    select number, what, value, who, at from (select * from desired where number > %s order by number desc limit %s) latest order by number
"""
_END: Final = "select seq from archive_head"
_LOOKED_AT_ONCE: Final = 1000
_KEEP: Final = "insert into follower values (%s, %s) on conflict (name) do update set position = excluded.position"
_WAIT_FOR_OTHERS: Final = "select seq from archive_head for share"  # who archives now may not have seen who listens
_NOT_COUNTED: Final = (None, None, None, None)  # by a broker beside this one
_AGAIN: Final = 1.0  # seconds after which somebody who waits for a result looks by himself


class Beside(Protocol):
    """A broker beside this database, which keeps the plain messages and the archive."""

    async def archived(self, after: int, limit: int, pattern: str, wait: float) -> Page:
        """See `Archive.archived`."""
        ...

    async def counts(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """Count its messages in queues."""
        ...

    async def holding(self) -> Mapping[int, int]:
        """Tell how many of its deliveries each session has."""
        ...

    async def passed(self, exchanges: Sequence[Exchange]) -> dict[str, tuple[int, int]]:
        """Return how many messages were published to exchanges, and how many were delivered to queues, as far as it is known."""
        ...

    async def about(self) -> str:
        """Tell which server answers, for people."""
        ...

    def relay(self, publications: Sequence[Publication]) -> None:
        """Hear what was stored; some of it may have to be relayed."""
        ...

    def queue_of(self, tag: int) -> str | None:
        """Return the queue of a delivery of its own that is out here."""
        ...


class PostgresStore(Budgets, Letters, Looking, Transfer):
    """What many hosts remember together."""

    def __init__(self, broker: PostgresBroker, beside: Beside | None = None) -> None:
        """Share the connections of a broker; what only another one `beside` it knows is asked of that."""
        self._beside = beside
        self._database = broker.database
        self._routes = broker.routes
        self._presence = broker.presence
        self._intake = broker.intake
        self._contents: Contents = broker
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._listening: int | None = None  # the session that is told when something is archived
        self._presence.on_told.append(self._hear)
        self._presence.on_entered.append(lambda _: self._hear(ENDED, ARCHIVED))  # what came meanwhile was told to nobody

    # --- marks, budgets, schedules

    async def mark(self, message_id: str, handler: str, then: Sequence[Publication] = (), result: bytes | None = None) -> list[Receipt]:
        async def work(cursor: Cursor) -> None:
            await cursor.execute("insert into mark values (%s, %s, %s) on conflict do nothing", (message_id, handler, result))
            if cursor.rowcount:  # else it is said again after an answer was lost
                await self._store_whole(cursor, then)

        try:
            await self._database.run(work)
        except MergeFirst as first:
            return first.receipts
        return []

    async def marks(self, message_id: str) -> Mapping[str, bytes | None]:
        rows = await self._database.once("select handler, result from mark where message_id = %s", (message_id,), repeatable=True)
        return {str(handler): result for handler, result in rows}

    async def take(self, budget: str, interval: float | None, burst: int, *, within: float = 0.0, tag: int = 0) -> Start:
        name = None if self._beside is None else self._beside.queue_of(tag)
        known = None if name is None else self._routes.queues.get(name)
        return await self.take_in(budget, interval, burst, within, tag, None if known is None else known.id)

    async def begin_schedules(self, application: str, definitions: Mapping[str, str], now: float) -> None:
        names = sorted(definitions)

        async def work(cursor: Cursor) -> None:
            await cursor.execute(_LEAVE_OUT, (application, names))
            await cursor.execute(_BEGIN, (application, names, [definitions[name] for name in names], now, CLOCKS_APART))
            await cursor.execute("insert into schedule select unnest(%s::text[]), %s on conflict do nothing", (names, now))

        await self._database.run(work)

    async def fire(self, schedule: str, slot: float, publications: Sequence[Publication], merge: Merge | None = None) -> bool:
        tried = publications

        async def work(cursor: Cursor) -> bool:
            await cursor.execute(_FIRE, (schedule, slot))
            if not cursor.rowcount:
                return False
            await self._store_whole(cursor, tried)
            return True

        while True:
            try:
                return await self._database.run(work)
            except MergeFirst as first:
                if merge is None:
                    return False
                tried = merge(tried, first.receipts)

    async def last_fired(self, schedule: str) -> float | None:
        rows = await self._database.once("select slot from schedule where name = %s", (schedule,), repeatable=True)
        return float(rows[0][0]) if rows else None

    async def _store_whole(self, cursor: Cursor, publications: Sequence[Publication]) -> None:
        await self._intake.store_whole(cursor, publications)
        if self._beside is not None:
            self._beside.relay(publications)

    # --- results

    async def state(self, message_id: str) -> State:
        rows = await self._database.once(_STATE, (message_id,), repeatable=True)
        if not rows:
            raise NotFound.message(message_id)
        name, state, queue, result, error, progress, into, waits, runs = rows[0]
        if state not in HAVE_ENDED:
            state = runs or waits or "ready"
        shown = cast("tuple[int, int, str]", tuple(msgspec.msgpack.decode(progress))) if progress else None
        return State(message_id, name, ended_as(state, error), queue, result, error, shown, into)

    async def result(self, message_id: str, wait: float) -> State:
        state = await self.state(message_id)
        if state.state in HAVE_ENDED or wait <= 0:
            return state
        session = await self._presence.number()
        await self._database.once(_ASK, (message_id, session), repeatable=True)
        try:
            return await self._told(message_id, wait, lambda: self.state(message_id), lambda state: state.state in HAVE_ENDED, _AGAIN)
        finally:
            if message_id not in self._waiting:
                await self._database.once(_ASK_NO_MORE, (message_id, session), repeatable=True)

    async def _told(self, what: str, wait: float, look: Callable[[], Awaitable[T]], is_over: Callable[[T], bool], again: float) -> T:
        """Look whenever somebody tells of `what`, and `again` after so many seconds, until it is over or was waited for long enough."""
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        until = loop.time() + wait
        self._waiting[what].add(told)
        try:
            while True:
                told.clear()
                found = await look()
                left = until - loop.time()
                if is_over(found) or left <= 0:
                    return found
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, again)):
                        await told.wait()
        finally:
            self._waiting[what].discard(told)
            if not self._waiting[what]:
                del self._waiting[what]

    def _hear(self, channel: str, payload: str) -> None:
        if channel == ENDED:
            for ended in self._waiting.get(payload, ()):
                ended.set()

    async def batch(self, batch: str) -> Mapping[str, int]:
        return dict(await self._database.once(_BATCH, (f"{batch}.", f"{batch}/"), repeatable=True))

    async def batches(self, before: str = "", limit: int = 50) -> list[str]:
        return [str(row[0]) for row in await self._database.once(_BATCHES, (f"{before}." if before else "~", limit), repeatable=True)]

    async def progress(self, message_id: str, done: int, total: int, text: str) -> None:
        shown = msgspec.msgpack.encode((done, total, text))
        await self._database.once(_PROGRESS, (shown, message_id, message_id), repeatable=True)

    # --- the whole

    async def archived(self, after: int, limit: int, *, pattern: str = "#", wait: float = 0.0) -> Page:
        if self._beside is not None:
            return await self._beside.archived(after, limit, pattern, wait)
        page = await self._page(after, limit, pattern)
        if wait <= 0 or page.end != after:
            return page

        async def look() -> Page:
            await self._listen()
            return await self._page(after, limit, pattern)

        return await self._told(ARCHIVED, wait, look, lambda page: page.end != after, wait)

    async def _page(self, after: int, limit: int, pattern: str) -> Page:
        limit = max(0, min(limit, _LOOKED_AT_ONCE))
        most = limit if pattern == "#" else _LOOKED_AT_ONCE
        statements: list[tuple[LiteralString, Any]] = [(_END, ()), archiving.reading(after, most if limit else 0)]
        ((end,),), rows = await self._database.together(statements, repeatable=True)
        if after >= end or not limit:
            return Page([], min(after, end), end)
        found: list[Record] = []
        cursor, looked = after, 0
        for seq, at, exchange, key, envelope in archiving.events_of(rows, after):
            if pattern == "#" or passes("topic", pattern, key):
                if len(found) >= limit:
                    break
                found.append(Record(seq, at, exchange, key, decode(envelope)))
            cursor, looked = seq, looked + 1
        else:
            cursor = cursor if looked >= most else max(cursor, end)
        return Page(found, cursor, max(cursor, end), cursor - after - looked)

    async def _listen(self) -> None:
        """Have this session be told whenever something is archived."""
        number = await self._presence.number()
        if self._listening == number:
            return

        async def work(cursor: Cursor) -> None:
            await cursor.execute(_ASK, (ARCHIVED, number))
            await cursor.execute(_WAIT_FOR_OTHERS)

        await self._database.run(work, repeatable=True)
        self._listening = number

    async def followers(self) -> Mapping[str, int]:
        return dict(await self._database.once("select name, position from follower", (), repeatable=True))

    async def keep_position(self, follower: str, position: int | None) -> None:
        if position is None:
            await self._database.once("delete from follower where name = %s", (follower,), repeatable=True)
        else:
            await self._database.once(_KEEP, (follower, position), repeatable=True)

    async def engine(self) -> EngineStatus:
        ((version,),) = await self._database.once("select current_setting('server_version')", (), repeatable=True)
        beside = None if self._beside is None else await self._beside.about()
        return EngineStatus(self._database.place, postgres=str(version), broker=beside)

    async def overview(self) -> Overview:
        await self._presence.number()
        await self._database.run(self._routes.refresh, writes=False)
        declared = {name: known for name, known in self._routes.queues.items() if not known.relays}
        sessions = await self._database.once(_SESSIONS, (), repeatable=True)
        held: Mapping[int, int] = {} if self._beside is None else await self._beside.holding()
        clients = [
            ClientStatus(name, role, int(holding) + held.get(number, 0), msgspec.json.decode(info, type=dict[str, Any]), float(started))
            for number, name, role, info, started, holding in sessions
        ]
        counts = await self._contents.count(list(declared))
        beside: Mapping[str, Depth] = {} if self._beside is None else await self._beside.counts(list(declared))
        serving = [set(client.info.get("queues", ())) for client in clients]
        summaries = await self._contents.summaries()
        queues: list[QueueStatus] = []
        for name, known in sorted(declared.items()):
            (depth, is_estimate), more = counts[name], beside.get(name, Depth())
            bindings = tuple((b.exchange, b.key) for b in known.queue.bindings)
            consumers = sum(name in served for served in serving)
            summary = summaries.get(name, Summary())
            published, done, retried, died = summary.totals if self._beside is None else _NOT_COUNTED
            queues.append(
                QueueStatus(
                    name, bindings, known.queue.origin, depth.ready + more.ready, depth.running + more.running, depth.delayed, depth.dead,
                    consumers, is_estimate=is_estimate, paused=summary.paused, oldest=summary.oldest, published=published, done=done,
                    retried=retried, died=died,
                )
            )  # fmt: skip
        exchanges = list(self._routes.exchanges.values())
        passed = await (self._contents.passed() if self._beside is None else self._beside.passed(exchanges))
        return Overview(await self.engine(), queues, exchanges, clients, passed)

    async def desire(self, what: str, value: str | None, who: str) -> Desired:
        if what.startswith(TENANT) and value is not None:
            weight_of(value)

        async def work(cursor: Cursor) -> Desired:
            if what.startswith(QUEUE):
                known = await self._routes.find(cursor, what.removeprefix(QUEUE))
                await cursor.execute("update queue set paused = %s where id = %s", (value == PAUSED, known.id))
                await cursor.execute(TELL, ([known.id],))
            if what.startswith(TENANT):
                await cursor.execute(_WEIGH, (what.removeprefix(TENANT), value))
            await cursor.execute(_DESIRE, (what, value, who))
            row = await cursor.fetchone()
            assert row is not None
            return Desired(*row)

        return await self._database.run(work)

    async def desired(self, *, after: int = 0, every: bool = False, limit: int = 1000) -> list[Desired]:
        rows = await self._database.once(_EVERY if every else _LATEST, (after, max(0, min(limit, 1000))), repeatable=True)
        return [Desired(*row) for row in rows]

    async def tell(self, info: Mapping[str, Any]) -> None:
        await self._presence.tell(info)
