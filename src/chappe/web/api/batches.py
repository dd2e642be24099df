"""Batches over HTTP: how far each is, its dead letters, and their retry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from chappe.app import App
from chappe.batches import state_of
from chappe.connection import Connection
from chappe.errors import InvalidMessage, NotFound
from chappe.messages.envelope import sent_at
from chappe.roles import ACT, READ, Caller
from chappe.web.api.failures import ActionOnLetters, Failures, Limit
from chappe.web.api.letters import ActedOnLetters, Listed
from chappe.web.api.operations import Number, Part, get, post

_HOLDS: Final = 1.0  # seconds for which what was counted holds
_HOLDS_OVER: Final = 10.0  # of a batch that is over: its dead letters may be retried
_REST: Final = 20  # times as long as counting a batch took, it is not counted again
_PATIENCE: Final = 0.5  # seconds that a request waits for counting to come to its end
_MOST_KNOWN: Final = 2000


class Batch(Struct, frozen=True):
    """A batch: `rate` is how many ended in a second since it began, `left` the seconds until all have, if the rest goes as what has.

    Of one that is not counted yet only the id and when it began are known.
    """

    id: str
    state: Literal["counting", "running", "over"]
    total: int
    began_at: float
    waiting: int | None = None
    done: int | None = None
    dead: int | None = None
    type: str | None = None
    queue: str | None = None
    rate: float | None = None
    left: float | None = None


class _List(Struct, frozen=True):
    batches: list[Batch]
    cursor: str | None


class _Page(Struct, frozen=True):
    """One batch and some of its dead letters; `cursor` goes on."""

    batch: Batch
    letters: list[Listed]
    letter_count: int
    cursor: str | None


class _Counted(Struct, frozen=True):
    shown: Batch
    until: float


class Batches(Part):
    """The routes of the batches of one application, with what this gateway has counted of them."""

    def __init__(self, app: App, failures: Failures) -> None:
        super().__init__(app)
        self._failures = failures
        self._known: dict[str, _Counted] = {}
        self._counting: asyncio.Task[None] | None = None

    @get("/api/batches", READ)
    async def batches(self, *, cursor: str = "", limit: Annotated[int, Meta(ge=0, le=100)] = 25) -> _List:
        """List the batches of which anything is known, the latest first."""
        connection, limit = await self._app.connection(), max(1, limit)
        ids = await connection.store.batches(cursor, limit)
        if self._counting is None or self._counting.done():
            self._counting = asyncio.ensure_future(self._count(connection, ids))
        await asyncio.wait({self._counting}, timeout=_PATIENCE)
        if self._counting.done():
            self._counting.result()
        shown = [self._known[id_].shown if id_ in self._known else _uncounted(id_) for id_ in ids]
        return _List(shown, ids[-1] if len(ids) == limit else None)

    async def _count(self, connection: Connection, ids: Sequence[str]) -> None:
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        for id_ in ids:
            if id_ not in self._known or self._known[id_].until <= time.monotonic():
                try:
                    await self._counted(connection, id_)
                except NotFound:  # it was forgotten meanwhile, or is an id of another program
                    self._known.pop(id_, None)

    async def _counted(self, connection: Connection, id_: str) -> Batch:
        """Count a batch. Raises `NotFound`."""
        began = time.monotonic()
        state = await state_of(connection, id_)
        known, kind, queue = self._known.get(id_), None, None
        if known is not None and known.shown.type is not None:
            kind, queue = known.shown.type, known.shown.queue
        else:
            try:
                first = await connection.store.state(f"{id_}.0")
                kind, queue = first.type, first.queue
            except NotFound:  # it ended more than a day ago
                pass
        now = self._app.bus.now()
        rate = None if state.is_over else state.ended / max(now - state.began_at, 0.001)
        word: Literal["over", "running"] = "over" if state.is_over else "running"
        left = None if state.is_over else state.left(now)
        shown = Batch(id_, word, state.total, state.began_at, state.waiting, state.done, state.dead, kind, queue, rate, left)
        ended = time.monotonic()
        self._known[id_] = _Counted(shown, ended + max(_HOLDS_OVER if state.is_over else _HOLDS, _REST * (ended - began)))
        return shown

    @get("/api/batches/{id}", READ)
    async def batch(self, id: str, *, cursor: Number = 0, limit: Limit = 50) -> _Page:
        """Show one batch with its dead letters."""
        connection, _ = await self._failures.fresh()
        known = self._known.get(id)
        shown = known.shown if known is not None and known.until > time.monotonic() else await self._counted(connection, id)
        numbers = self._failures.groups.of_batch(id)
        letters, following = await self._failures.page(connection, numbers, cursor, limit)
        return _Page(shown, letters, len(numbers), following)

    @post("/api/batches/{id}", ACT)
    async def act(self, id: str, asked: ActionOnLetters, caller: Caller) -> ActedOnLetters:
        """Retry or discard the dead letters of a batch; what is left is done by sending the cursor of the answer."""
        if asked.action not in ("retry", "discard") or asked.edit is not None:
            raise InvalidMessage("the body", {"$.action": "the letters of a batch are retried or discarded as they are"})
        connection, _ = await self._failures.fresh()
        await self._counted(connection, id)
        told = await self._failures.act(caller, connection, self._failures.groups.of_batch(id), asked, f"batch {id}")
        self._known.pop(id, None)
        return told


def _uncounted(id_: str) -> Batch:
    began_at, total = sent_at(id_), id_.rpartition(".")[2]
    return Batch(id_, "counting", int(total) if total.isdecimal() else 0, began_at or 0.0)
