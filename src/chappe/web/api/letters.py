"""Dead letters over HTTP: listed, shown with everything that is known of them, edited, retried and discarded."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from chappe.app import App
from chappe.engines.contract.letters import Letter
from chappe.errors import InvalidMessage, NotFound, UnknownMessage
from chappe.failure_groups import act_on, cause_of
from chappe.failures import first_line
from chappe.messages.codec import decode_plain, decoder
from chappe.messages.message import Message
from chappe.roles import ACT, READ, Caller
from chappe.web.api.operations import Number, Part, get, noted, post


class Listed(Struct, frozen=True):
    """A dead letter in a list."""

    number: int
    id: str
    type: str
    queue: str
    reason: str
    error: str
    attempts: int
    deaths: int
    died_at: float


class WholeLetter(Listed, frozen=True):
    """A dead letter with everything that is known of it."""

    fingerprint: str
    body: Any
    headers: dict[str, str]
    traceback: str | None
    history: tuple[tuple[float, int, str], ...]


class _List(Struct, frozen=True):
    letters: list[Listed]
    cursor: str | None


class ActedOnLetters(Struct, frozen=True):
    """How many letters were acted on, how many are left for another request, and some that cannot be retried."""

    done: int
    refused: list[str]
    left: int = 0
    cursor: str | None = None


class _Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    action: Literal["retry", "discard"]
    body: Raw | UnsetType = UNSET


def refuse_unknown_fields(app: App, kind: str, edit: dict[str, Any]) -> None:
    """Raise `InvalidMessage` for a field that a type does not have, if the application knows it."""
    known = _class(app, kind)
    fields: tuple[str, ...] = () if known is None else known.__struct_encode_fields__
    if unknown := [name for name in edit if fields and name not in fields]:
        raise InvalidMessage(kind, {f"$.{unknown[0]}": f"it has no such field; its fields are: {', '.join(fields)}"})


def refuse_invalid(app: App, letter: Letter, body: bytes) -> None:
    """Raise `InvalidMessage` for a body that is none of the letter's type, if the application knows it."""
    known, envelope = _class(app, letter.envelope.type), letter.envelope
    try:
        if known is not None:
            decoder(known, envelope.content_type)(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidMessage(envelope.type, {"$": str(error)}) from None


def _class(app: App, kind: str) -> type[Message] | None:
    try:
        return app.registry.message(kind)
    except UnknownMessage:
        return None


class Letters(Part):
    """The routes of dead letters."""

    @get("/api/letters", READ)
    async def letters(self, *, queue: str | None = None, cursor: Number = 0, limit: Annotated[int, Meta(ge=0, le=200)] = 50) -> _List:
        """List dead letters by number."""
        letters = await (await self._store()).letters(queue, after=cursor, limit=limit)
        return _List([listed(letter) for letter in letters], str(letters[-1].number) if len(letters) == limit else None)

    @get("/api/letters/{number:int}", READ)
    async def letter(self, number: int) -> WholeLetter:
        """Show one dead letter with everything that is known of it."""
        return _whole(await self._known(number))

    @post("/api/letters/{number:int}", ACT)
    async def act(self, number: int, asked: _Wanted, caller: Caller) -> ActedOnLetters:
        """Retry a dead letter, also with another body, or discard it."""
        letter, store = await self._known(number), await self._store()
        text = f"dead letter {number}, message {letter.envelope.id}"
        if not isinstance(asked.body, UnsetType):
            if asked.action != "retry" or letter.envelope.content_type.partition(";")[0] not in ("", "application/json"):
                raise InvalidMessage("the body", {"$.body": "the body of a letter in JSON can be replaced where it is retried"})
            refuse_invalid(self._app, letter, bytes(asked.body))
            await store.edit_letter(number, bytes(asked.body))
            text += ", with another body"
        told = await act_on(store, [number], asked.action)
        await noted(store, caller, asked.action, text)
        return ActedOnLetters(told.done, told.refused)

    async def _known(self, number: int) -> Letter:
        if number >= 2**63:
            raise NotFound.letter(number)
        return await (await self._store()).letter(number)


def listed(letter: Letter) -> Listed:
    """Return a letter as a list shows it."""
    envelope = letter.envelope
    return Listed(
        letter.number, envelope.id, envelope.type, letter.queue, letter.reason, first_line(letter.error), letter.attempts, letter.deaths,
        letter.died_at,
    )  # fmt: skip


def _whole(letter: Letter) -> WholeLetter:
    envelope = letter.envelope
    fingerprint = cause_of(envelope.type, letter.queue, letter.reason, letter.error).fingerprint
    try:
        body = decode_plain(envelope.body, envelope.content_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = {"base64": base64.b64encode(envelope.body).decode()}
    few = {name: getattr(listed(letter), name) for name in Listed.__struct_fields__}
    return WholeLetter(
        **few, fingerprint=fingerprint, body=body, headers=dict(envelope.headers or {}), traceback=letter.error, history=letter.history
    )
