"""Single messages over HTTP: lists by state with filters, and one message with its life and why it does not run."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from chappe.archive.follow import body_of
from chappe.engines.contract.inspection import STATES, MessageStatus
from chappe.engines.finding import explain
from chappe.engines.why import Reason
from chappe.errors import InvalidMessage, NotFound
from chappe.messages.envelope import sent_at
from chappe.roles import READ
from chappe.web.api.operations import Part, get

_WITHIN: Final = 0.5  # seconds for which one request looks on, where few of many fit


class Listed(Struct, frozen=True, omit_defaults=True):
    """A message in a list; `runs_on` is the process that runs it, or has it and, as far as is known, has not `begun` it yet."""

    id: str
    type: str
    queue: str
    state: str
    attempt: int
    size: int
    priority: int = 0
    deaths: int = 0
    sent_at: float | None = None
    due: float | None = None
    key: str | None = None
    budget: str | None = None
    runs_on: str | None = None
    begun: bool = True
    number: int | None = None
    reason: str | None = None
    error: str | None = None
    died_at: float | None = None


class Place(Listed, frozen=True, omit_defaults=True):
    """A message in one queue, with everything that is known of it there."""

    body: Any = None
    headers: dict[str, str] = {}
    correlation_id: str | None = None
    why: list[Reason] = []


class _Page(Struct, frozen=True):
    """Some messages; `cursor` goes on."""

    messages: list[Listed]
    cursor: str | None


class _Life(Struct, frozen=True):
    """A message in each queue where it is, and its state if it is tracked."""

    id: str
    places: list[Place]
    tracked: dict[str, Any] | None


class Messages(Part):
    """The routes of messages."""

    @get("/api/messages", READ)
    async def messages(
        self, *, queue: str | None = None, state: Literal["running", "ready", "delayed", "dead"] | None = None, type: str = "",
        text: str = "", id: str = "", cursor: str = "", limit: Annotated[int, Meta(ge=0, le=500)] = 50,
    ) -> _Page:  # fmt: skip
        """List messages of all queues or one, in the order in which they are served, in each state or one; `cursor` goes on."""
        store = await self._store()
        queues = [one.name for one in (await store.overview()).queues if queue in (None, one.name)]
        if not queues:
            raise NotFound(f'no queue is called "{(queue or "")[:100]}"')
        lists = [(name, one) for one in ((state,) if state else STATES) for name in queues]
        containing = [one.encode() for one in (type, text, id) if one]
        (at, behind), limit = _begun(cursor, lists), max(1, limit)
        found: list[MessageStatus] = []
        until = time.monotonic() + _WITHIN
        while at < len(lists) and len(found) < limit and time.monotonic() < until:
            page = await store.look(*lists[at], containing=containing, cursor=behind, limit=limit - len(found))
            found += [message for message in page.messages if type in ("", message.envelope.type)]
            at, behind = (at + 1, "") if page.cursor is None else (at, page.cursor)
        following = None if at >= len(lists) else json.dumps([*lists[at], behind])
        return _Page([Listed(**_fields(message)) for message in found], following)

    @get("/api/messages/{id}", READ)
    async def message(self, id: str) -> _Life:
        """Show one message wherever it is, its state if it is tracked, and why it does not run."""
        store = await self._store()
        try:
            tracked = await store.state(id)
        except NotFound:
            tracked = None
        found = await store.find(id, queue=None if tracked is None else tracked.queue)
        if tracked is None and not found:
            raise NotFound(f"message {id[:100]} is nowhere: it has ended untracked, waits in RabbitMQ as a plain one, or never was")
        told = await explain(store, found, self._app.bus.now(), self._app.registry.takes)
        places = [_place(message, reasons) for message, reasons in zip(found, told, strict=True)]
        result = None if tracked is None or tracked.result is None else msgspec.json.decode(tracked.result)
        return _Life(id, places, tracked and msgspec.structs.asdict(tracked) | {"result": result})


def _begun(cursor: str, lists: list[tuple[str, str]]) -> tuple[int, str]:
    """Return in which list to go on, and where in it. Raises `InvalidMessage`."""
    if not cursor:
        return 0, ""
    try:
        queue, state, rest = msgspec.json.decode(cursor, type=tuple[str, str, str])
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise InvalidMessage("the query", {"cursor": "it is none that a list told; begin without one"}) from None
    if (queue, state) not in lists:
        raise InvalidMessage("the query", {"cursor": "it is of another list; begin without one"})
    return lists.index((queue, state)), rest


def _fields(message: MessageStatus) -> dict[str, Any]:
    envelope = message.envelope
    return {
        "id": envelope.id, "type": envelope.type, "queue": message.queue, "state": message.state, "attempt": message.attempt,
        "size": len(envelope.body), "priority": message.priority, "deaths": message.deaths,
        "sent_at": envelope.timestamp or sent_at(envelope.id), "due": message.due, "key": message.key, "budget": message.budget,
        "runs_on": message.holder, "begun": message.begun, "number": message.number, "reason": message.reason, "error": message.error,
        "died_at": message.died_at,
    }  # fmt: skip


def _place(message: MessageStatus, reasons: list[Reason]) -> Place:
    envelope = message.envelope
    body = body_of(envelope)
    shown = body.decode(errors="replace") if isinstance(body, bytes) else body
    return Place(**_fields(message), body=shown, headers=dict(envelope.headers), correlation_id=envelope.correlation_id, why=reasons)
