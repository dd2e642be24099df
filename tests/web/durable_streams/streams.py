"""Streams as the suite creates and fills them, each the events of one routing key: what is read comes from the gateway."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlencode

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

Publish = Callable[[str, list[Any]], Awaitable[None]]  # publishes events with a routing key, each with a body

_HOP: Final = {"content-type", "content-length", "transfer-encoding", "connection", "date", "server"}


class Streams:
    """The write half of the protocol, as much of it as the cases of the read half need, and a way to the gateway.

    Statuses, headers and positions are the gateway's own. Only events become what they hold: a JSON stream the value that is the body of
    an event, all others the text or the bytes that were published as a body.
    """

    def __init__(self, gateway: str, publish: Publish, http: httpx2.AsyncClient) -> None:
        self._gateway = gateway
        self._publish = publish
        self._http = http
        self._kinds: dict[str, tuple[str, str]] = {}  # the routing key and the content type of each stream
        self._numbers = itertools.count()
        methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
        self.application = Starlette(routes=[Route("/v1/stream/{name:path}", self._answer, methods=methods)])

    async def _answer(self, request: Request) -> Response:
        name, content_type = request.path_params["name"], request.headers.get("content-type", "application/octet-stream")
        if request.method == "PUT":
            is_new = name not in self._kinds
            self._kinds.setdefault(name, (f"stream.{next(self._numbers)}", content_type))
            await self._append(name, await request.body())
            return Response(status_code=201 if is_new else 200, headers={"location": str(request.url)} | await self._end(name))
        if name not in self._kinds:
            return Response(status_code=404)
        if request.method == "DELETE":
            del self._kinds[name]
            return Response(status_code=204)
        if request.method == "POST":
            await self._append(name, await request.body())
            return Response(status_code=204, headers=await self._end(name))
        return await self._read(name, request)

    async def _append(self, name: str, body: bytes) -> None:
        key, content_type = self._kinds[name]
        if not body:
            return
        if _is_json(content_type):
            value = json.loads(body)
            await self._publish(key, value if isinstance(value, list) else [value])
        else:
            await self._publish(key, [body.decode() if content_type.startswith("text/") else base64.b64encode(body).decode()])

    async def _end(self, name: str) -> dict[str, str]:
        answer = await self._http.head(f"{self._gateway}/events", params={"pattern": self._kinds[name][0]})
        return {"stream-next-offset": answer.headers["stream-next-offset"]}

    async def _read(self, name: str, request: Request) -> Response:
        key, content_type = self._kinds[name]
        url = f"{self._gateway}/events?{urlencode([('pattern', key), *request.query_params.multi_items()])}"
        headers = {name: value for name in ("accept", "if-none-match", "last-event-id") if (value := request.headers.get(name))}
        answer = await self._http.send(self._http.build_request(request.method, url, headers=headers), stream=True)
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP}
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            kept["content-type"] = answer.headers["content-type"]
            return StreamingResponse(_unwrapped_events(answer, content_type), answer.status_code, kept)
        body = await answer.aread()
        await answer.aclose()
        if answer.status_code != 200 or request.method == "HEAD":
            return Response(status_code=answer.status_code, headers=kept | {"content-type": content_type})
        return Response(_joined([event["body"] for event in json.loads(body)], content_type), 200, kept | {"content-type": content_type})


async def _unwrapped_events(answer: httpx2.Response, content_type: str) -> AsyncGenerator[bytes]:
    event = ""
    try:
        async for line in answer.aiter_lines():
            name, _, value = line.partition(":")
            event = value.strip() if name == "event" else event
            if name == "data" and event == "data":
                data = _joined([event["body"] for event in json.loads(value)], content_type)
                yield b"".join(b"data:%b\n" % part for part in re.split(rb"\r\n|\r|\n", data))
            else:
                yield f"{line}\n".encode()
    finally:
        await answer.aclose()


def _joined(bodies: list[Any], content_type: str) -> bytes:
    if _is_json(content_type):
        return json.dumps(bodies).encode()
    return b"".join(body.encode() if content_type.startswith("text/") else base64.b64decode(body) for body in bodies)


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"
