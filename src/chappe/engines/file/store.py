"""The store contract kept by the file engine: the same file, the same connection, the same transaction."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from chappe.engines.budget import BudgetStatus
from chappe.engines.contract.archive import Page, Record
from chappe.engines.contract.fleet import Desired, EngineStatus, Overview
from chappe.engines.contract.inspection import Look, MessageStatus
from chappe.engines.contract.letters import Exported, Letter
from chappe.engines.contract.results import Merge, Start, State
from chappe.engines.file.client import Client
from chappe.messages.envelope import Envelope, Publication, Receipt

_state: Final = msgspec.msgpack.Decoder(State).decode
_Letter = tuple[int, str, str, str | None, int, float, Envelope, tuple[tuple[float, int, str], ...], int]
_letter: Final = msgspec.msgpack.Decoder(_Letter).decode
_letters: Final = msgspec.msgpack.Decoder(list[_Letter]).decode
_failing: Final = msgspec.msgpack.Decoder(tuple[list[_Letter], int | None]).decode
_look: Final = msgspec.msgpack.Decoder(tuple[list[MessageStatus], str | None]).decode
_records: Final = msgspec.msgpack.Decoder(tuple[list[tuple[int, float, str, str, Envelope]], int, int, int]).decode
_receipts: Final = msgspec.msgpack.Decoder(list[Receipt]).decode
_budgets: Final = msgspec.msgpack.Decoder(list[BudgetStatus]).decode
_fired: Final = msgspec.msgpack.Decoder(tuple[bool, list[Receipt]]).decode
_desired: Final = msgspec.msgpack.Decoder(Desired).decode
_all_desired: Final = msgspec.msgpack.Decoder(list[Desired]).decode
_engine: Final = msgspec.msgpack.Decoder(EngineStatus).decode
_overview: Final = msgspec.msgpack.Decoder(Overview).decode
_carried: Final = msgspec.msgpack.Decoder(list[Exported]).decode
_RESULT_MARGIN = 5.0
_LOOK: Final = 0.25  # seconds between two looks into the archive where no engine runs that would tell


class FileStore:
    """Speaks to the one process that owns the SQLite file."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def mark(self, message_id: str, handler: str, then: Sequence[Publication] = (), result: bytes | None = None) -> list[Receipt]:
        bodies = self._client.bodies
        receipts = await self._client.call("mark", message_id, handler, await bodies.aput(then), result, decode=_receipts)
        return bodies.shown(receipts)

    async def marks(self, message_id: str) -> Mapping[str, bytes | None]:
        return await self._client.call("marks", message_id)

    async def take(self, budget: str, interval: float | None, burst: int, *, within: float = 0.0, tag: int = 0) -> Start:
        return Start(*await self._client.call("take", budget, interval, burst, within, tag))

    async def throttle(self, budget: str, until: float | None) -> None:
        await self._client.call("throttle", budget, until)

    async def budgets(self, limit: int = 1000) -> list[BudgetStatus]:
        return await self._client.call("list_budgets", limit, decode=_budgets)

    async def begin_schedules(self, application: str, definitions: Mapping[str, str], now: float) -> None:
        await self._client.call("begin_schedules", application, dict(definitions), now)

    async def fire(self, schedule: str, slot: float, publications: Sequence[Publication], merge: Merge | None = None) -> bool:
        tried = publications
        while True:
            fired, receipts = await self._client.call("fire", schedule, slot, await self._client.bodies.aput(tried), decode=_fired)
            if not receipts or merge is None:
                return fired
            tried = merge(tried, self._client.bodies.shown(receipts))

    async def last_fired(self, schedule: str) -> float | None:
        return await self._client.call("last_fired", schedule)

    async def state(self, message_id: str) -> State:
        return await self._client.call("state", message_id, decode=_state)

    async def result(self, message_id: str, wait: float) -> State:
        return await self._client.call("result", message_id, wait, decode=_state, deadline=wait + _RESULT_MARGIN)

    async def batch(self, batch: str) -> Mapping[str, int]:
        whole = Counter[str]()
        after: str | None = ""
        while after is not None:
            counts, after = await self._client.call("count_batch", batch, after)
            whole.update(counts)
        return whole

    async def batches(self, before: str = "", limit: int = 50) -> list[str]:
        return await self._client.call("batches", before, limit)

    async def progress(self, message_id: str, done: int, total: int, text: str) -> None:
        await self._client.call("progress", message_id, done, total, text)

    async def letters(self, queue: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        rows = await self._client.call("list_letters", queue, after, limit, decode=_letters)
        return await self._client.bodies.awhole([Letter(*row) for row in rows])

    async def failing(self, *, after: int = 0, limit: int = 100) -> list[Letter]:
        found: list[Letter] = []
        place: int | None = after
        while place is not None and len(found) < limit:
            rows, place = await self._client.call("list_failing", place, limit, decode=_failing)
            found += [Letter(*row) for row in rows]
        return found[:limit]

    async def letter(self, number: int) -> Letter:
        (found,) = await self._client.bodies.awhole([Letter(*await self._client.call("letter", number, decode=_letter))])
        return found

    async def look(self, queue: str, state: str, *, containing: Sequence[bytes] = (), cursor: str = "", limit: int = 20) -> Look:
        messages, *rest = await self._client.call("look", queue, state, list(containing), cursor, limit, decode=_look)
        return Look(await self._client.bodies.awhole(messages), *rest)

    async def ahead(self, queue: str, place: str) -> int:
        return await self._client.call("ahead", queue, place)

    async def retry_letters(self, numbers: Sequence[int]) -> int:
        return await self._client.call("retry_letters", numbers)

    async def edit_letter(self, number: int, body: bytes) -> None:
        await self._client.call("edit_letter", number, body)

    async def discard_letters(self, numbers: Sequence[int]) -> int:
        return await self._client.call("discard_letters", numbers)

    async def export_messages(self, queue: str, state: str, *, after: int = 0, later: float = 0.0, limit: int = 100) -> list[Exported]:
        found = await self._client.call("export_messages", queue, state, after, later, limit, decode=_carried)
        return await self._client.bodies.awhole(found)

    async def delete_delayed(self, queue: str, places: Sequence[int]) -> list[int]:
        return await self._client.call("delete_delayed", queue, places)

    async def import_letters(self, queue: str, letters: Sequence[Exported]) -> int:
        return await self._client.call("import_letters", queue, letters)

    async def archived(self, after: int, limit: int, *, pattern: str = "#", wait: float = 0.0) -> Page:
        page = await self._page(after, limit, pattern)
        if wait <= 0 or page.end != after:
            return page
        if not await self._client.call("await_archived", after, wait, deadline=wait + _RESULT_MARGIN):
            await asyncio.sleep(min(wait, _LOOK))
        return await self._page(after, limit, pattern)

    async def _page(self, after: int, limit: int, pattern: str) -> Page:
        rows, *position = await self._client.call("archived", after, limit, pattern, decode=_records)
        return Page(await self._client.bodies.awhole([Record(*row) for row in rows]), *position)

    async def followers(self) -> Mapping[str, int]:
        return await self._client.call("followers")

    async def keep_position(self, follower: str, position: int | None) -> None:
        await self._client.call("keep_position", follower, position)

    async def engine(self) -> EngineStatus:
        return await self._client.call("engine", decode=_engine)

    async def overview(self) -> Overview:
        return await self._client.call("overview", decode=_overview)

    async def tell(self, info: Mapping[str, Any]) -> None:
        self._client.info = dict(info)  # also for an engine that comes after this one
        await self._client.call("tell", self._client.info)

    async def desire(self, what: str, value: str | None, who: str) -> Desired:
        return await self._client.call("desire", what, value, who, decode=_desired)

    async def desired(self, *, after: int = 0, every: bool = False, limit: int = 1000) -> list[Desired]:
        return await self._client.call("desired", after, every, limit, decode=_all_desired)
