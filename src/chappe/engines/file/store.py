"""The store contract kept by the file engine: the same file, the same connection, the same transaction."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from chappe.engines.contract.archive import Page
from chappe.engines.contract.inspection import Look, MessageStatus, pages
from chappe.engines.contract.letters import Exported, Letter
from chappe.engines.contract.results import Merge, State
from chappe.engines.contract.store import Store
from chappe.engines.file.broker import FileBroker
from chappe.messages.envelope import Publication, Receipt

_ANSWERS: Final = {
    name: msgspec.msgpack.Decoder(inspect.get_annotations(verb, eval_str=True)["return"]).decode
    for name, verb in inspect.getmembers(Store, inspect.iscoroutinefunction)
}
_failing: Final = msgspec.msgpack.Decoder(tuple[list[Letter], int | None]).decode
_fired: Final = msgspec.msgpack.Decoder(tuple[bool, list[Receipt]]).decode
_RESULT_MARGIN = 5.0
_LOOK: Final = 0.25  # seconds between two looks into the archive where no engine runs that would tell


class _FileStore(Store):
    """Speaks to the one process that owns the SQLite file: the verbs that are not here are said as the contract declares them."""

    def __init__(self, broker: FileBroker) -> None:
        self._broker = broker

    def _say(self, verb: str, *arguments: Any, deadline: float | None = None) -> asyncio.Future[Any]:
        """Say a verb to the engine, and have its answer be read as the contract declares it."""
        return self._broker.call(verb, *arguments, decode=_ANSWERS[verb], deadline=deadline)

    async def mark(self, message_id: str, handler: str, then: Sequence[Publication] = (), result: bytes | None = None) -> list[Receipt]:
        receipts = await self._say("mark", message_id, handler, await self._broker.bodies.aput(then), result)
        return self._broker.bodies.shown(receipts)

    async def fire(self, schedule: str, slot: float, publications: Sequence[Publication], merge: Merge | None = None) -> bool:
        tried = publications
        while True:
            fired, receipts = await self._broker.call("fire", schedule, slot, await self._broker.bodies.aput(tried), decode=_fired)
            if not receipts or merge is None:
                return fired
            tried = merge(tried, self._broker.bodies.shown(receipts))

    async def result(self, message_id: str, wait: float) -> State:
        return await self._say("result", message_id, wait, deadline=wait + _RESULT_MARGIN)

    async def batch(self, batch: str) -> Mapping[str, int]:
        whole = Counter[str]()
        after: str | None = ""
        while after is not None:
            counts, after = await self._broker.call("batch", batch, after)
            whole.update(counts)
        return whole

    async def letters(self, queue: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        return await self._broker.bodies.awhole(await self._say("letters", queue, after, limit))

    async def failing(self, *, after: int = 0, limit: int = 100) -> list[Letter]:
        found: list[Letter] = []
        place: int | None = after
        while place is not None and len(found) < limit:
            letters, place = await self._broker.call("failing", place, limit, decode=_failing)
            found += letters
        return found[:limit]

    async def letter(self, number: int) -> Letter:
        (found,) = await self._broker.bodies.awhole([await self._say("letter", number)])
        return found

    async def look(self, queue: str, state: str, *, containing: Sequence[bytes] = (), cursor: str = "", limit: int = 20) -> Look:
        found: Look = await self._say("look", queue, state, list(containing), cursor, limit)
        return replace(found, messages=await self._broker.bodies.awhole(found.messages))

    async def find(self, message_id: str, *, queue: str | None = None) -> list[MessageStatus]:
        # What goes from one state to another meanwhile may be in neither when that is looked at.
        return await self._find(message_id, queue) or await self._find(message_id, queue)

    async def _find(self, message_id: str, queue: str | None) -> list[MessageStatus]:
        found: list[MessageStatus] = []
        for one in [one for one in (await self.overview()).queues if queue in (None, one.name)]:
            async with aclosing(pages(self, [one], message_id)) as looked:
                async for messages in looked:
                    same = [message for message in messages if message.envelope.id == message_id]
                    found += same
                    if same:
                        break  # a queue has a message once
        return found

    async def export_messages(self, queue: str, state: str, *, after: int = 0, later: float = 0.0, limit: int = 100) -> list[Exported]:
        return await self._broker.bodies.awhole(await self._say("export_messages", queue, state, after, later, limit))

    async def archived(self, after: int, limit: int, *, pattern: str = "#", wait: float = 0.0) -> Page:
        page = await self._page(after, limit, pattern)
        if wait <= 0 or page.end != after:
            return page
        if not await self._broker.call("await_archived", after, wait, deadline=wait + _RESULT_MARGIN):
            await asyncio.sleep(min(wait, _LOOK))
        return await self._page(after, limit, pattern)

    async def _page(self, after: int, limit: int, pattern: str) -> Page:
        page: Page = await self._say("archived", after, limit, pattern)
        return replace(page, records=await self._broker.bodies.awhole(page.records))

    async def tell(self, info: Mapping[str, Any]) -> None:
        self._broker.info = dict(info)  # also for an engine that comes after this one
        await self._broker.call("tell", self._broker.info)


def store_of(broker: FileBroker) -> Store:
    """Return the store that shares the connection of a broker."""
    return _FileStore(broker)  # pyright: ignore[reportAbstractUsage] - the loop below makes the rest


def _said(verb: str) -> Callable[..., Any]:
    """Return the method that says a verb of the contract to the engine, with its arguments in order."""
    signature = inspect.signature(getattr(Store, verb))

    async def say(self: _FileStore, *given: Any, **named: Any) -> Any:
        whole = signature.bind(self, *given, **named)
        whole.apply_defaults()
        return await self._say(verb, *whole.args[1:], *whole.kwargs.values())  # pyright: ignore[reportPrivateUsage]

    return say


for _name in _ANSWERS:
    if _name not in vars(_FileStore):
        setattr(_FileStore, _name, _said(_name))
