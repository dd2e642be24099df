"""Dead letters by their cause over HTTP: what fails, since when, and what is done about it."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from chappe.app import App
from chappe.connection import Connection
from chappe.engines.contract.letters import Letter
from chappe.errors import InvalidMessage, NotFound
from chappe.failure_groups import FAILURE, IGNORED, RESOLVED, Done, FailureGroups, Group, act_on, edited
from chappe.roles import ACT, READ, Caller
from chappe.web.api.letters import ActedOnLetters, Listed, listed, refuse_invalid, refuse_unknown_fields
from chappe.web.api.operations import Number, Part, get, noted, post, said_by

_LOOK: Final = 1.0  # seconds for which what was read holds
_PATIENCE: Final = 0.7  # seconds that a request waits for reading to come to its end
_WORK: Final = 1.0  # seconds for which one request goes on to retry or discard
_CHUNK: Final = 100
_MOST_REFUSED: Final = 5  # that are told
_SAID: Final = {"resolve": RESOLVED, "ignore": IGNORED, "reopen": None}
Limit = Annotated[int, Meta(ge=0, le=200)]


class ActionOnLetters(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be done with the letters of a cause; `edit` are other values of fields, `cursor` goes on where an answer ended."""

    action: Literal["retry", "discard", "resolve", "ignore", "reopen"]
    edit: dict[str, Any] | None = None
    cursor: str | None = None


class Shown(Struct, frozen=True):
    """A failure as it is shown: `count` letters, and `waiting` messages that have failed of it and wait for another attempt.

    `occurrences` are the hours of its last week and how many died in each, `who` has said its state.
    """

    fingerprint: str
    type: str
    queue: str
    handler: str
    error: str
    place: str
    count: int
    waiting: int
    first_at: float
    last_at: float
    state: str
    occurrences: list[tuple[float, int]]
    who: str | None
    said_at: float | None


class _List(Struct, frozen=True):
    """The causes; `is_whole` says whether all letters were read by now."""

    groups: list[Shown]
    is_whole: bool


class _Page(Struct, frozen=True):
    """One cause and some of its letters; `cursor` goes on."""

    group: Shown
    letters: list[Listed]
    cursor: str | None


class Failures(Part):
    """The routes of the failures of one application, with what this gateway has read of them."""

    def __init__(self, app: App, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(app)
        self._now = now
        self.groups = FailureGroups()
        self._reading: asyncio.Task[None] | None = None
        self._read_at = float("-inf")

    async def fresh(self) -> tuple[Connection, bool]:
        """Read what is new, together with all who ask, and tell whether that came to its end in time."""
        connection = await self._app.connection()
        if self._reading is None and self._now() - self._read_at >= _LOOK:
            self._reading = asyncio.ensure_future(self.groups.refresh(connection.store))
        if (reading := self._reading) is None:
            return connection, True
        await asyncio.wait({reading}, timeout=_PATIENCE)
        if not reading.done():
            return connection, False
        if self._reading is reading:
            self._reading, self._read_at = None, self._now()
        await reading
        return connection, True

    @get("/api/failures", READ)
    async def failures(self, *, state: Literal["open", "resolved", "ignored", "all"] = "open") -> _List:
        """List the causes of what is dead or waits for another attempt, the latest first: those that are open, or of another state."""
        _, is_whole = await self.fresh()
        shown = [self._shown(group) for group in self.groups.groups()]
        return _List([one for one in shown if state in (one.state, "all")], is_whole)

    @get("/api/failures/{fingerprint}", READ)
    async def failure(self, fingerprint: str, *, cursor: Number = 0, limit: Limit = 50) -> _Page:
        """Show one cause with its letters."""
        connection, _ = await self.fresh()
        group = self.groups.group(fingerprint)
        letters, following = await self.page(connection, group.numbers, cursor, limit)
        return _Page(self._shown(group), letters, following)

    async def page(self, connection: Connection, numbers: Sequence[int], after: int, limit: int) -> tuple[list[Listed], str | None]:
        """Return those of some letters that a request asks for, and the cursor that goes on."""
        first = bisect_right(numbers, after)
        found = numbers[first : first + limit + 1]
        letters = await _letters(connection, found[:limit])
        self.groups.forget([number for number, letter in letters.items() if letter is None])
        shown = [listed(letter) for letter in letters.values() if letter is not None]
        return shown, str(found[limit - 1]) if len(found) > limit else None

    @post("/api/failures/{fingerprint}", ACT)
    async def judge(self, fingerprint: str, asked: ActionOnLetters, caller: Caller) -> ActedOnLetters:
        """Retry, discard or judge all letters of a cause; what is left is done by sending the cursor of the answer."""
        if asked.edit is not None and asked.action != "retry":
            raise InvalidMessage("the body", {"$.edit": "fields are edited where letters are retried"})
        connection, _ = await self.fresh()
        group = self.groups.group(fingerprint)
        if asked.action in _SAID:
            await connection.store.desire(f"{FAILURE}{group.cause.fingerprint}", _SAID[asked.action], said_by(caller))
            self._read_at = float("-inf")
            return ActedOnLetters(len(group.numbers), [])
        refuse_unknown_fields(self._app, group.cause.type, asked.edit or {})
        return await self.act(caller, connection, group.numbers, asked, f"failure {group.cause.fingerprint}")

    async def act(self, caller: Caller, connection: Connection, all_: Sequence[int], asked: ActionOnLetters, of: str) -> ActedOnLetters:
        """Retry or discard some letters for a while; the trail says of what they are."""
        after, until = _span(asked.cursor, all_)
        numbers = all_[bisect_right(all_, after) : bisect_right(all_, until)]
        told, reached = await self._act_on(connection, numbers, asked)
        self.groups.forget(told.gone)
        left = numbers[reached:]
        what = f"{told.done} dead letters of {of}"
        await noted(connection.store, caller, asked.action, f"{what}, edited: {', '.join(asked.edit)}" if asked.edit else what)
        cursor = f"{numbers[reached - 1]}-{until}" if left else None
        return ActedOnLetters(told.done, told.refused[:_MOST_REFUSED], len(left), cursor)

    async def _act_on(self, connection: Connection, numbers: Sequence[int], asked: ActionOnLetters) -> tuple[Done, int]:
        """Act on letters for a while, and return what became of how many."""
        whole, began, reached = Done(), self._now(), 0
        while reached < len(numbers) and (not reached or self._now() - began < _WORK):
            some = list(numbers[reached : reached + _CHUNK])
            reached += len(some)
            if asked.edit:
                letters = await _letters(connection, some)
                some = await self._edited(connection, letters, asked.edit, whole)
            told = await act_on(connection.store, some, asked.action)
            whole.done += told.done
            whole.gone += told.gone
            whole.refused += told.refused
        return whole, reached

    async def _edited(self, connection: Connection, letters: Mapping[int, Letter | None], edit: dict[str, Any], whole: Done) -> list[int]:
        """Replace the bodies of letters, and return which of them can be retried."""
        bodies: dict[int, bytes] = {}
        for number, letter in letters.items():
            try:
                if letter is None:
                    whole.gone.append(number)
                else:
                    bodies[number] = edited(letter, edit)
                    refuse_invalid(self._app, letter, bodies[number])
            except InvalidMessage as error:
                bodies.pop(number, None)
                whole.refused.append(f"dead letter {number}: {error}")
        await asyncio.gather(*(connection.store.edit_letter(number, body) for number, body in bodies.items()))
        return list(bodies)

    def _shown(self, group: Group) -> Shown:
        cause = group.cause
        fingerprint, said = cause.fingerprint, self.groups.said_of(cause.fingerprint)
        state = group.state(said)
        return Shown(
            fingerprint, cause.type, cause.queue, cause.handler, group.text, group.place, len(group.numbers), group.waiting,
            group.first_at, group.last_at, state, group.occurrences(), said and said.who, said and said.at,
        )  # fmt: skip


async def _letters(connection: Connection, numbers: Sequence[int]) -> dict[int, Letter | None]:
    """Return letters by number, and nothing for those that are no more."""

    async def one(number: int) -> Letter | None:
        try:
            return await connection.store.letter(number)
        except NotFound:
            return None

    return dict(zip(numbers, await asyncio.gather(*map(one, numbers)), strict=True))


def _span(cursor: str | None, numbers: Sequence[int]) -> tuple[int, int]:
    """Return behind which letter to go on, and with which to end: what dies again meanwhile is not acted on twice."""
    after, _, until = (cursor or f"0-{numbers[-1] if numbers else 0}").partition("-")
    if not (after.isdecimal() and until.isdecimal()):
        raise InvalidMessage("the body", {"$.cursor": "send it as an earlier answer had it"})
    return int(after), int(until)
