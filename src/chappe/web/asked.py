"""Commands over a WebSocket: each is taken as `POST /commands/{name}` takes it, and answered with the same body."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message
from starlette.websockets import WebSocket

from chappe.messages.codec import encode_json
from chappe.roles import SEND
from chappe.web.access import CALLER, permits
from chappe.web.problems import problem

ANSWER: Final = "chappe.answer"  # the type of what answers a command
MOST_AT_ONCE: Final = 8  # commands of one client: more are read when one of them is answered

Post = Callable[[Request], Awaitable[Response]]


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """A command: `ref` comes back with its answer, `key` is its idempotency key, `wait` the seconds to wait for its result."""

    command: str
    body: Raw
    ref: int | str | None = None
    key: str | None = None
    wait: float | None = None


_decode: Final = msgspec.json.Decoder(Asked).decode


async def answer_commands(websocket: WebSocket, post: Post) -> None:
    """Answer the commands of a client until it goes."""
    answering: set[asyncio.Task[None]] = set()
    try:
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            if len(answering) >= MOST_AT_ONCE:
                await asyncio.wait(answering, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.ensure_future(_answer(websocket, message, post))
            answering.add(task)
            task.add_done_callback(answering.discard)
    finally:
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


async def _answer(websocket: WebSocket, message: Message, post: Post) -> None:
    _, answer = await answered(message.get("text") or message.get("bytes") or b"", post, websocket.scope)
    await websocket.send_text(answer.decode())


async def answered(said: str | bytes, post: Post, scope: Mapping[str, Any]) -> tuple[int, bytes]:
    """Have a command be taken for who speaks in a scope, and return the status of the answer and the answer."""
    ref = None
    try:
        asked = _decode(said)
        ref = asked.ref
        if permits(scope, SEND):
            response = await post(_request(asked, scope.get(CALLER)))
        else:
            response = problem(403, "This is not permitted", 'it needs the permission "send", and your role does not have it')
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        response = problem(400, "This is no command", f'{error}; write {{"command": …, "body": {{…}}, "ref": 1}}')
    answer = {"type": ANSWER, "ref": ref, "status": response.status_code, "body": Raw(bytes(response.body))}
    return response.status_code, encode_json(answer)


def _request(asked: Asked, caller: Any) -> Request:
    headers: dict[str, str | None] = {
        "content-type": "application/json",
        "idempotency-key": asked.key,
        "prefer": None if asked.wait is None else f"wait={asked.wait:g}",
    }
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": f"/commands/{asked.command}", "path_params": {"name": asked.command}, "query_string": b"",
        CALLER: caller,
        "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items() if value is not None],
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(asked.body), "more_body": False}

    return Request(scope, receive)
