"""Commands over HTTP: taken with 202 after the durable commit, asked after by id."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from chappe.app import App
from chappe.batches import state_of
from chappe.bus.draft import Draft, fingerprint_of_body, new_id
from chappe.engines.contract.results import State
from chappe.errors import BrokerError, ChappeError, CommandFailed, DefinitionError, InvalidMessage, NotFound, UnknownMessage
from chappe.failures import summarize
from chappe.messages.bounds import excess_of
from chappe.messages.codec import decode_body, encode_json
from chappe.messages.envelope import changed
from chappe.messages.message import Command
from chappe.messages.values import result_of
from chappe.web.access import limits_of
from chappe.web.intake import Intake, refused
from chappe.web.problems import problem, problem_of

LONGEST_WAIT: Final = 60.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?")
_LONGEST_STATE: Final = 512


class Commands:
    """The routes for commands and messages of one application."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._intake = Intake(app)

    async def post(self, request: Request) -> Response:
        """`POST /commands/{name}`."""
        try:
            return await self._post(request)
        except ChappeError as error:
            return problem_of(error)
        except ClientDisconnect:  # it left before its body had come: nobody hears this answer, and nothing was stored
            return problem(400, "The body did not come")

    async def _post(self, request: Request) -> Response:
        name = request.path_params["name"]
        kind = self._app.registry.message(name)
        if not issubclass(kind, Command):
            raise UnknownMessage(f'"{name}" is an event; commands are: {", ".join(c.__spec__.name for c in self._app.registry.commands())}')
        limits = limits_of(request.scope)
        if limits is not None and kind.__spec__.name not in limits.commands:
            return problem(403, "This is not permitted", f"the token lets you send: {', '.join(sorted(limits.commands)) or 'nothing'}")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return problem(415, "The body must be JSON", "send it with Content-Type: application/json; curl does so with --json")
        key = request.headers.get("idempotency-key")
        if key is not None and not _KEY.fullmatch(key):
            return problem(400, "The idempotency key is not usable", "it must be 1 to 255 printable ASCII characters without spaces")
        body = await request.body()
        if excess := excess_of(body):
            return problem(400, f"The body is {excess[0]}", excess[1])
        try:
            command: Command = decode_body(kind, name, body)
        except InvalidMessage as error:
            if list(error.faults) == ["$"] and (fault := _malformed(body)):
                return problem(400, "The body is not JSON", fault)
            raise
        if command.__spec__.inline:
            return await self._run_now(command)
        if await self._intake.is_paused():
            return refused()
        return await self._store(request, command, body, key)

    async def _store(self, request: Request, command: Command, body: bytes, key: str | None) -> Response:
        name, wait = command.__spec__.name, _wanted_wait(request.headers.get("prefer", ""))
        draft = Draft(new_id(), headers=_traced(request), options=changed(None, tracked=True))
        if key is not None:
            draft.options = changed(draft.options, idempotency_key=f"{name}:{key}", fingerprint=fingerprint_of_body(body))
        (receipt,) = await self._app.publish_all([self._app.bus.prepare(command, draft)])
        headers: dict[str, str] = {}
        identity = receipt.id if receipt.outcome == "duplicate" else draft.id
        if receipt.outcome == "duplicate" and key is not None:
            headers["Idempotent-Replayed"] = "true"
        state = None if wait is None else await self._awaited(identity, wait)
        if state is not None:
            headers["Preference-Applied"] = f"wait={wait:g}"
            if state.state == "dead" or state.error is not None:
                raise CommandFailed(identity, state.error or "dead", state.state)
            if state.state == "done":
                return Response(encode_json(shown(state)), 200, {"Location": f"/messages/{identity}", **headers}, "application/json")
        headers["Location"] = f"/messages/{identity}"
        return Response(encode_json({"id": identity, "outcome": receipt.outcome}), 202, headers, "application/json")

    async def _awaited(self, identity: str, wait: float) -> State | None:
        """Wait for the end of a stored command; if that cannot be known, it is stored all the same."""
        try:
            connection = await self._app.connection()
            return await connection.store.result(identity, wait)
        except BrokerError:
            return None

    async def _run_now(self, command: Command) -> Response:
        identity = new_id()
        started = time.time()
        try:
            returned = await self._app.handle_now(command, identity)
        except (BrokerError, DefinitionError):
            raise
        except BaseException as error:  # what a handler raises is the answer to this request only
            if _is_cancelled(error):
                raise
            raise CommandFailed(identity, summarize(error)) from error
        result, missing = result_of(returned)
        if missing is not None:
            raise CommandFailed(identity, missing, "done")
        answer = {
            "id": identity,
            "type": command.__spec__.name,
            "state": "done",
            "result": None if result is None else msgspec.Raw(result),
            "seconds": round(time.time() - started, 6),
        }
        return Response(encode_json(answer), 200, media_type="application/json")

    async def get(self, request: Request) -> Response:
        """`GET /messages/{id}`, with `Prefer: wait=` until it ended."""
        connection = await self._app.connection()
        wait = _wanted_wait(request.headers.get("prefer", ""))
        state = await connection.store.result(request.path_params["id"], wait or 0.0)
        if (limits := limits_of(request.scope)) is not None and state.type not in limits.commands:
            raise NotFound.message(state.id)
        return Response(encode_json(shown(state)), 200, media_type="application/json")

    async def get_batch(self, request: Request) -> Response:
        """`GET /batches/{id}`."""
        if limits_of(request.scope) is not None:
            return problem(403, "This is not permitted", "the token is for single commands")
        state = await state_of(await self._app.connection(), request.path_params["id"])
        return Response(encode_json(state.as_json()), 200, media_type="application/json")


def _is_cancelled(error: BaseException) -> bool:
    """Tell whether this request itself was given up."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and bool(task.cancelling())


def shown(state: State) -> dict[str, Any]:
    """Return the JSON of a message's state."""
    answer: dict[str, Any] = {"id": state.id, "type": state.type, "state": state.state, "queue": state.queue}
    if state.state == "done":
        answer["result"] = None if state.result is None else msgspec.Raw(state.result)
    if state.error is not None:
        answer["error"] = state.error
    if state.merged_into is not None:
        answer["merged_into"] = state.merged_into
    if state.progress is not None:
        done, total, text = state.progress
        answer["progress"] = {"done": done, "total": total, "text": text}
    return answer


def _malformed(body: bytes) -> str | None:
    """Say why a body is no JSON, if that is so."""
    if not body:
        return "it is empty; send an object with the fields of the command"
    try:
        body.decode()
        msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (byte {error.start})"
    except (msgspec.DecodeError, RecursionError) as error:
        return str(error)
    return None


def _wanted_wait(prefer: str) -> float | None:
    """Read the seconds of `Prefer: wait=` (RFC 7240 §4.3), within what is granted."""
    for preference in prefer.split(","):
        name, _, value = preference.strip().partition("=")
        if name.strip().lower() == "wait":
            try:
                seconds = float(value.strip().strip('"'))
            except ValueError:
                return None
            return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else None  # noqa: PLR0124 - not a number
    return None


def _traced(request: Request) -> dict[str, str] | None:
    """Return the trace that the message takes along; one that cannot be read is left behind (W3C Trace Context §3.2)."""
    parent, state = request.headers.get("traceparent", ""), request.headers.get("tracestate", "")
    if not _TRACE.fullmatch(parent):
        return None
    return {"traceparent": parent, "tracestate": state} if 0 < len(state) <= _LONGEST_STATE and state.isascii() else {"traceparent": parent}
