"""A real engine, gateway and worker that outlive every wrong input, and a count of what they stored."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec

from chappe.engines.file.owner import socket_path
from chappe.engines.file.wire import Answer as Reply
from chappe.engines.file.wire import Frames, decode_answer, frame

from ...waiting import until
from .row import Answer

APPLICATION = '''
import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from chappe import App, Command, Event, Retry

app = App("shop")


class Order(Command, queue="orders"):
    customer: Annotated[str, Meta(min_length=1)]
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    when: datetime.date | None = None
    price: float = 0.0
    notes: dict[str, Any] | list[Any] | None = None


class Parcel(Command, queue="parcels", aliases=("packet",), retry=Retry(1)):
    """What the worker of these tests handles."""

    weight: int


class Add(Command, inline=True):
    a: int


class Sold(Event):
    customer: str


@app.handles(Order)
async def order(command: Order) -> None: ...


@app.handles(Parcel)
async def parcel(command: Parcel) -> None: ...


@app.handles(Add)
async def add(command: Add) -> int:
    return command.a


@app.on(Sold)
async def sold(event: Sold) -> None: ...
'''

ORDER = b'{"customer": "Ada"}'
TOKEN = "a-token-of-sufficient-length"


def clean_environment() -> dict[str, str]:
    """Return an environment without settings of the developer's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") and k not in ("PORT", "LOG_LEVEL")}
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1"}


class Wire:
    """A client of the engine's socket that may say anything."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self._frames = Frames()
        self._replies: list[Reply] = []

    def ask(self, verb: Any, *arguments: Any, serial: Any = 1) -> Answer:
        """Say one request and give the refusal, or `done` with the value."""
        return self.say(frame((serial, verb, arguments)))

    def say(self, data: bytes, *, end: bool = False) -> Answer:
        """Send bytes and give what the engine makes of them: an answer, or that it hangs up."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)
            if end:
                self.socket.shutdown(socket.SHUT_WR)
        while not self._replies:
            try:
                came = self.socket.recv(1 << 16)
            except ConnectionResetError:
                came = b""
            if not came:
                return Answer("hangs up", "")
            self._replies += [decode_answer(body) for body in self._frames.feed(came)]
        reply = self._replies.pop(0)
        if reply.failure is not None:
            return Answer(reply.failure.kind, reply.failure.text)
        return Answer("done", json.dumps(msgspec.msgpack.decode(reply.value), default=repr))

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def _answer_of(link: socket.socket) -> Answer:
    response = http.client.HTTPResponse(link)
    response.begin()
    return Answer(str(response.status), f"{response.headers}{response.read().decode()}".replace('\\"', '"'))


class House:
    """The processes that wrong inputs are sent to, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "chappe.db"
        (folder / "shop.py").write_text(APPLICATION)
        self.environment = {**clean_environment(), "CHAPPE_APP": "shop:app", "CHAPPE_PORT": "0", "CHAPPE_DEPLOY_WINDOW": "0"}
        self.processes = {
            "engine": self._start("engine"),
            "gateway": self._start("gateway"),
            "guarded": self._start("gateway", name="guarded", CHAPPE_TOKEN=TOKEN),
            "worker": self._start("worker", "-Q", "parcels"),
        }
        until(lambda: self.port("gateway") and self.port("guarded"), "the gateways to listen")
        until(lambda: "serves parcels" in self.log("worker"), "the worker to serve")
        self.wire_path = socket_path(self.database)
        self.before: dict[str, Any] = {}

    def _start(self, *arguments: str, name: str = "", **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name or arguments[0]}.log").open("wb") as log:
            command = [sys.executable, "-m", "chappe", *arguments]
            return subprocess.Popen(command, cwd=self.folder, env={**self.environment, **environment}, stdout=log, stderr=log)

    def log(self, name: str) -> str:
        """Return what a process said so far."""
        return (self.folder / f"{name}.log").read_text()

    def port(self, name: str = "gateway") -> int:
        """Return the port of a gateway, as it said it; 0 as long as it did not."""
        found = re.findall(r"gateway listens on http://[\d.]+:(\d+)", self.log(name))
        return int(found[-1]) if found else 0

    # --- doors

    def http(self, raw: bytes, *, guarded: bool = False) -> Answer:
        """Send raw bytes to a gateway and give the status and the whole answer."""
        with socket.create_connection(("127.0.0.1", self.port("guarded" if guarded else "gateway")), 60) as link:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it read everything
                link.sendall(raw)
            return _answer_of(link)

    def drip(self, begin: bytes, piece: bytes) -> Answer:
        """Begin a request and add a piece of it again and again, until the gateway has had enough."""
        with socket.create_connection(("127.0.0.1", self.port()), 60) as link:
            link.sendall(begin)
            while not select.select([link], [], [], 0.2)[0]:
                link.sendall(piece)
            answer = _answer_of(link)
            assert link.recv(1) == b"", "the gateway did not hang up"
            return answer

    @contextlib.contextmanager
    def wire(self) -> Iterator[Wire]:
        """Speak to the engine without our client."""
        wire = Wire(self.wire_path)
        try:
            yield wire
        finally:
            wire.close()

    # --- what is stored

    def census(self) -> tuple[dict[str, Any], int]:
        """Return what the engine stores now, and how many messages were ever published."""
        with self.wire() as wire:
            answer = wire.ask("overview")
        assert answer.code == "done", answer
        overview = json.loads(answer.text)
        counts = {q["name"]: {k: q[k] for k in ("ready", "running", "delayed", "dead")} for q in overview["queues"]}
        standing = {"engine": overview["engine"]["pid"], "exchanges": overview["exchanges"], "queues": counts}
        return standing, sum(q["published"] for q in overview["queues"])

    def running(self, queue: str) -> int:
        """Count what is running in a queue."""
        return int(self.census()[0]["queues"][queue]["running"])

    def highest_tag(self) -> int:
        """Return a number above every tag that the engine has given out."""
        with apsw.Connection(str(self.database), flags=apsw.SQLITE_OPEN_READONLY) as db:
            (highest,) = db.execute("select coalesce(max(id), 0) from ready").fetchone()
        return int(highest)

    def letters(self) -> list[Answer]:
        """List the dead letters of the parcels: each with its reason and its error."""
        with self.wire() as wire:
            found = json.loads(wire.ask("letters", "parcels", 0, 1000).text)
        return [Answer(reason, str(error)) for _, _, reason, error, *_ in found]

    def assert_unharmed(self) -> None:
        """Assert that the same three processes go on, and that they work."""
        for name, process in self.processes.items():
            assert process.poll() is None, f"the {name} ended with {process.returncode}:\n{self.log(name)}"
        ready = self.http(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert ready.code == "200", ready

    def close(self) -> None:
        """End the processes."""
        for process in reversed(list(self.processes.values())):
            process.send_signal(signal.SIGKILL)
            process.wait(60)
