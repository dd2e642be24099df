"""Commands that are counted together: how many of them have ended, and one command more when all have.

::

    batches = Batches(app)

    batch = batches.send("import", [FetchArticle(article=n) for n in range(15_000)], then=TellUser(user=1))
    (await batches.state(batch)).done

A batch is nothing beside its commands: its id says when it began and how many they are, theirs begin with it, and each is tracked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from chappe.app import App
from chappe.bounds import RESULTS_KEPT
from chappe.bus.context import Context
from chappe.bus.draft import Draft, draft_of, listed, new_id
from chappe.connection import Connection
from chappe.errors import DefinitionError, InvalidMessage, NotFound, Snooze
from chappe.messages.codec import decode_body
from chappe.messages.envelope import Publication, changed, sent_at
from chappe.messages.message import Command, writer_of

MOST: Final = 1_000_000
_SOONEST: Final = 0.5
_LATEST: Final = 30.0
_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\.([1-9][0-9]{0,6})")


class BatchState(Struct, frozen=True):
    """How far a batch is. Those that ended more than a day ago count as done, also where they were dead letters."""

    id: str
    total: int
    waiting: int
    dead: int
    began_at: float

    @property
    def ended(self) -> int:
        """How many have ended, done or dead."""
        return self.total - self.waiting

    @property
    def done(self) -> int:
        """How many are done."""
        return self.ended - self.dead

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return not self.waiting

    def as_json(self) -> dict[str, Any]:
        """Return it as HTTP and the command line show it."""
        return {
            "id": self.id, "total": self.total, "waiting": self.waiting, "done": self.done, "dead": self.dead,
            "began_at": self.began_at, "over": self.is_over,
        }  # fmt: skip

    def left(self, now: float) -> float | None:
        """Return the seconds until all have ended, if the rest goes as what has; None before the first has."""
        return self.waiting * (now - self.began_at) / self.ended if self.ended else None


class WatchBatch(Command, name="chappe.watch.batch"):
    """Look from time to time whether all commands of a batch have ended, and send another one then."""

    batch: str
    then: str
    body: str


class Batches:
    """The batches of an application; it handles `WatchBatch` in its default queue."""

    def __init__(self, app: App) -> None:
        self._app = app
        app.handles(WatchBatch)(self._watch)

    def send(
        self, commands: Sequence[Command], *, then: Command | None = None, delay: float | None = None, priority: int | None = None
    ) -> str:
        """Store commands as one batch and return its id: all of them, and what watches them for `then`, or none.

        `then` is sent once when each of them is done or a dead letter.
        """
        return self._app.wait_for(self.asend(commands, then=then, delay=delay, priority=priority))

    async def asend(
        self, commands: Sequence[Command], *, then: Command | None = None, delay: float | None = None, priority: int | None = None
    ) -> str:
        """See `send`."""
        messages, _ = listed(commands)
        if not 0 < len(messages) <= MOST:
            raise InvalidMessage("batch", {"$": f"a batch has 1 to {MOST} commands, not {len(messages)}"})
        batch = f"{new_id()}.{len(messages)}"
        publications = list[Publication]()
        for number, message in enumerate(messages):
            if message.__spec__.inline:
                raise DefinitionError(f"{type(message).__name__} is inline, so it cannot be one of a batch")
            draft = draft_of(message, delay=delay, priority=priority, idempotency_key=None)
            draft.id = f"{batch}.{number}"
            draft.options = changed(draft.options, tracked=True)
            publications.append(self._app.bus.prepare(message, draft))
        if then is not None:
            body = writer_of(type(then))(then).decode()
            publications.append(self._app.bus.prepare(WatchBatch(batch=batch, then=then.__spec__.name, body=body), Draft(new_id())))
        await self._app.publish_all(publications)
        return batch

    async def state(self, batch: str) -> BatchState:
        """Tell how far a batch is. Raises `NotFound` for what is no batch."""
        return await state_of(await self._app.connection(), batch)

    async def _watch(self, command: WatchBatch, context: Context) -> None:
        try:
            state = await self.state(command.batch)
        except NotFound:  # all of them ended more than a day ago, or were doubles of others
            state = None
        if state is not None and not state.is_over:
            now = self._app.bus.now()
            left = state.left(now) or now - state.began_at
            raise Snooze(min(max(_SOONEST, left / 4), _LATEST), f"{state.ended} of {state.total} have ended")
        context.send(decode_body(self._app.registry.message(command.then), command.then, command.body.encode()))


async def state_of(connection: Connection, batch: str) -> BatchState:
    """Ask an engine how far a batch is. Raises `NotFound`."""
    found, began_at = _ID.fullmatch(batch), sent_at(batch)
    if found is None or began_at is None:
        raise NotFound(f'"{batch}" is no batch: its id is that of a message, a dot, and how many commands it has')
    total = int(found[1])
    counts = await connection.store.batch(batch)
    if not counts:
        raise NotFound(f"batch {batch} is not known: it is that of another engine, or ended more than {RESULTS_KEPT / 3600:g} hours ago")
    return BatchState(batch, total, counts.get("waiting", 0), counts.get("dead", 0), began_at)
