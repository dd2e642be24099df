"""Single messages over HTTP: lists by state with filters, and one message with its life and why it does not run."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chappe.app import App
from chappe.archive.follow import body_of
from chappe.engines.contract.inspection import STATES, MessageStatus
from chappe.engines.finding import explain, find
from chappe.engines.why import Reason
from chappe.errors import InvalidMessage, NotFound
from chappe.messages.envelope import sent_at
from chappe.web.api.requests import answer, number_in

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


class Messages:
    """The routes of messages."""

    def __init__(self, app: App) -> None:
        self._app = app

    def routes(self) -> list[Route]:
        """Return the routes of messages."""
        return [
            Route("/api/messages", self._list, methods=["GET"]),
            Route("/api/messages/{id}", self._show, methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Response:
        """List messages of all queues or one, in the order in which they are served, in each state or one; `cursor` goes on."""
        query = request.query_params
        if (state := query.get("state")) is not None and state not in STATES:
            raise InvalidMessage("the query", {"state": f"it is one of {', '.join(STATES)}"})
        limit, store = max(1, number_in(request, "limit", 50, most=500)), (await self._app.connection()).store
        queues = [queue.name for queue in (await store.overview()).queues if query.get("queue") in (None, queue.name)]
        if not queues:
            raise NotFound(f'no queue is called "{query.get("queue", "")[:100]}"')
        lists = [(queue, one) for one in ((state,) if state else STATES) for queue in queues]
        containing = [text.encode() for name in ("type", "text", "id") if (text := query.get(name))]
        at, cursor = _begun(query.get("cursor"), lists)
        found: list[MessageStatus] = []
        until = time.monotonic() + _WITHIN
        while at < len(lists) and len(found) < limit and time.monotonic() < until:
            queue, one = lists[at]
            page = await store.look(queue, one, containing=containing, cursor=cursor, limit=limit - len(found))
            found += [message for message in page.messages if query.get("type") in (None, "", message.envelope.type)]
            at, cursor = (at + 1, "") if page.cursor is None else (at, page.cursor)
        following = None if at >= len(lists) else json.dumps([*lists[at], cursor])
        return answer({"messages": [_listed(message) for message in found], "cursor": following})

    async def _show(self, request: Request) -> Response:
        """Show one message wherever it is, its state if it is tracked, and why it does not run."""
        identity, store = request.path_params["id"], (await self._app.connection()).store
        try:
            tracked = await store.state(identity)
        except NotFound:
            tracked = None
        found = await find(store, identity, queue=None if tracked is None else tracked.queue)
        if tracked is None and not found:
            raise NotFound(f"message {identity[:100]} is nowhere: it has ended untracked, waits in RabbitMQ as a plain one, or never was")
        told = await explain(store, found, self._app.bus.now(), self._app.registry.takes)
        places = [_place(message, reasons) for message, reasons in zip(found, told, strict=True)]
        result = None if tracked is None or tracked.result is None else msgspec.json.decode(tracked.result)
        known = None if tracked is None else {**msgspec.structs.asdict(tracked), "result": result}
        return answer({"id": identity, "places": places, "tracked": known})


def _begun(cursor: str | None, lists: list[tuple[str, str]]) -> tuple[int, str]:
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


def _listed(message: MessageStatus) -> Listed:
    return Listed(**_fields(message))


def _place(message: MessageStatus, reasons: list[Reason]) -> Place:
    envelope = message.envelope
    body = body_of(envelope)
    shown = body.decode(errors="replace") if isinstance(body, bytes) else body
    return Place(**_fields(message), body=shown, headers=dict(envelope.headers), correlation_id=envelope.correlation_id, why=reasons)
