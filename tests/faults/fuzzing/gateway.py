"""The gateway as a decoder: requests through the whole application, and bytes through the HTTP parser."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from chappe import App, Command, Settings
from chappe.engines.file.server import Engine
from chappe.messages.codec import encode_json
from chappe.web.gateway import gateway
from chappe.web.http_protocol import HttpProtocol

from .targets import MESSAGES, Order, Scan, Target

ANSWERS = {200, 202, 400, 404, 409, 413, 415, 422}
RAM = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Sum(Command, inline=True):
    """Handled here and now."""

    numbers: list[int]


class Posts:
    """Posts bodies to a gateway in this process, whose engine stores what is right."""

    def __init__(self) -> None:
        self.app = App("fuzz")
        self.app.knows(Order, Scan)

        @self.app.handles(Sum)
        async def add(command: Sum) -> int:
            return sum(command.numbers)

        self.loop: asyncio.AbstractEventLoop | None = None
        self.asgi: Any = None

    async def _open(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="chappe-fuzz-", dir=RAM))
        engine = Engine(folder / "chappe.db", grace=0.0)
        self.app.configure(Settings(broker=f"sqlite:///{folder}/chappe.db"), engine=engine)
        self.asgi = gateway(self.app)
        atexit.register(self._close, engine, folder)

    def _close(self, engine: Engine, folder: Path) -> None:
        assert self.loop is not None
        engine.close()
        self.loop.close()
        shutil.rmtree(folder, ignore_errors=True)

    def __call__(self, data: bytes) -> None:
        """Send `name`, `content type`, `key`, `preference` and the body, each behind a line feed."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            self.loop.run_until_complete(self._open())
        name, kind, key, preference, *rest = [*data.split(b"\n", 4), *[b""] * 4][:5]
        headers = [(b"host", b"localhost"), (b"content-type", kind)]
        headers += [(b"idempotency-key", key)] if key else []
        headers += [(b"prefer", preference.replace(b"wait=", b"wait=0"))] if preference else []
        status, body = self.loop.run_until_complete(self._post(name.decode("latin-1"), headers, b"".join(rest)))
        assert status in ANSWERS, f"{status}: {body!r}"
        assert status < 400 or body.startswith(b'{"type":"urn:chappe:problem:'), body

    async def _post(self, name: str, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, bytes]:
        answer: dict[str, Any] = {}

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            answer.update(message)

        scope = {
            "type": "http", "method": "POST", "path": f"/commands/{name}", "raw_path": b"", "query_string": b"", "headers": headers,
            "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("localhost", 7070), "client": ("127.0.0.1", 1),
            "extensions": {"chappe.user": {"id": os.getuid()}},
        }  # fmt: skip
        await self.asgi(scope, receive, send)
        return int(answer["status"]), bytes(answer["body"])


class Memory(asyncio.Transport):
    """A connection whose other end is a list."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.sent: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Parser(logging.Handler):
    """Feeds bytes to the HTTP of the gateway, and hears what it logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.said: list[str] = []
        self.config = uvicorn.Config(
            self._app, http=HttpProtocol, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False
        )
        self.config.load()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    def __call__(self, data: bytes) -> None:
        """Send a stream in two pieces, and hang up."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            atexit.register(self.loop.close)
        log = logging.getLogger("uvicorn.error")
        propagate, log.propagate = log.propagate, False
        log.addHandler(self)
        try:
            self.loop.run_until_complete(self._feed(data))
        finally:
            log.removeHandler(self)
            log.propagate = propagate
        said, self.said = self.said, []
        assert said == [], said

    async def _feed(self, data: bytes) -> None:
        protocol, link = HttpProtocol(self.config, ServerState(), {}, asyncio.get_running_loop()), Memory()
        protocol.connection_made(link)
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            if piece and not link.closing:
                protocol.data_received(piece)
                await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.gather(*protocol.tasks, return_exceptions=True)
        whole = b"".join(link.sent)
        assert re.match(rb"(HTTP/1\.1 (100|200|400|431) |$)", whole), whole[:80]


POST = b"POST /commands/order HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
TARGETS = [
    Target("HTTP bodies", Posts(),
           [b"order\napplication/json\n\n\n" + encode_json(MESSAGES[0]), b"scan\napplication/json; charset=utf-8\nkey-1\nwait=0\n" + encode_json(MESSAGES[1]),
            b'sum\napplication/json\n\n\n{"numbers":[1,2]}'], (), 0.02),
    Target("HTTP streams", Parser(),
           [POST + b'Content-Length: 19\r\n\r\n{"customer": "Ada"}', POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3, POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"], (), 0.02),
]  # fmt: skip
