"""Three doors of ZeroMQ to the declarations that HTTP serves, with the same answers."""

# pyright: reportPrivateUsage=false

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import zmq
import zmq.asyncio

from chappe import App, Command, Event, Settings
from chappe.engines.file.server import Engine
from chappe.errors import DefinitionError, InvalidSettings
from chappe.integrations.zeromq import USER, Doors
from chappe.web.gateway import gateway

from ..waiting import PATIENCE, auntil
from ..web.shop import of_this_user

TOKEN = "a token of sixteen characters or more"


class Divide(Command, inline=True):
    a: int
    b: int


class Keep(Command, queue="kept"):
    text: str


class BidRaised(Event):
    amount: int


class House:
    """An application with its engine and its doors in this event loop."""

    def __init__(self, folder: Path, scheme: str, **settings: Any) -> None:
        self.folder = folder
        self.engine = Engine(folder / "chappe.db", grace=0.0)
        self.app = App("auction")
        self.app.knows(BidRaised, Keep)

        @self.app.handles(Divide)
        def divide(command: Divide) -> float:
            return command.a / command.b

        self.app.configure(Settings(broker=f"sqlite:///{folder / 'chappe.db'}", **settings), engine=self.engine)
        places: dict[str, Any] = {
            name: f"ipc://{folder / name}" if scheme == "ipc" else "tcp://127.0.0.1:*" for name in ("requests", "pushes", "events")
        }
        self.doors = Doors(self.app, **places)
        self.context = zmq.asyncio.Context()
        self.places: dict[str, str] = {}
        self.sockets: list[Any] = []
        bound = self.doors._bound

        def noted(context: Any, kind: int, address: str) -> Any:
            made = bound(context, kind, address)
            names: dict[int, str] = {zmq.ROUTER: "requests", zmq.PULL: "pushes", zmq.PUB: "events"}
            self.places[names[kind]] = made.last_endpoint.decode()
            return made

        self.doors._bound = noted  # type: ignore[method-assign]

    def socket(self, kind: int, name: str, token: str | None = None) -> Any:
        made: Any = self.context.socket(kind)
        if token is not None:
            made.plain_username, made.plain_password = USER.encode(), token.encode()
        made.connect(self.places[name])
        self.sockets.append(made)
        return made

    async def close(self) -> None:
        for socket in self.sockets:
            socket.close(linger=0)
        self.context.term()
        await self.app.aclose()
        self.engine.close()

    async def ask(self, socket: Any, said: Any) -> Any:
        async with asyncio.timeout(PATIENCE):
            await socket.send(said if isinstance(said, bytes) else json.dumps(said).encode())
            return json.loads(await socket.recv())

    async def kept(self) -> int:
        return (await (await self.app.connection()).broker.depth("kept")).ready


@contextlib.asynccontextmanager
async def opened(folder: Path, scheme: str = "ipc", **settings: Any) -> AsyncIterator[House]:
    house = House(folder, scheme, **settings)
    await house.app.connection()
    serving = asyncio.ensure_future(house.doors.run())
    await auntil(lambda: len(house.places) == 3 or serving.done(), "the doors to open")
    try:
        yield house
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        await house.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opened(tmp_path) as house:
        yield house


async def test_d4_what_is_asked_is_answered_as_over_http_byte_for_byte(house: House) -> None:
    said: list[tuple[str, Any]] = [
        ("divide", {"a": 1, "b": "x"}), ("divide", {"a": 1}), ("divide", {"a": 1, "b": 2, "c": 3}), ("divde", {}), ("keep", {"text": 5}),
        ("keep", []), ("bid.raised", {"amount": 1}),
    ]  # fmt: skip
    asgi = of_this_user(gateway(house.app))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=asgi), base_url="http://localhost:7070") as http:
        socket = house.socket(zmq.REQ, "requests")
        for name, body in said:
            by_http = await http.post(f"/commands/{name}", json=body)
            answer = await house.ask(socket, {"command": name, "body": body, "ref": 7})
            assert (answer["ref"], answer["status"], answer["body"]) == (7, by_http.status_code, by_http.json()), name
            assert by_http.status_code >= 400
        answer = await house.ask(socket, {"command": "divide", "body": {"a": 3, "b": 2}})
        assert (answer["status"], answer["body"]["result"]) == (200, 1.5)


async def test_d10_request_and_reply_push_and_pull_publish_and_subscribe(house: House, caplog: pytest.LogCaptureFixture) -> None:
    heard, request, push = house.socket(zmq.SUB, "events"), house.socket(zmq.REQ, "requests"), house.socket(zmq.PUSH, "pushes")
    heard.subscribe(b"bid.")
    answer = await house.ask(request, {"command": "keep", "body": {"text": "asked"}, "key": "one"})
    again = await house.ask(request, {"command": "keep", "body": {"text": "asked"}, "key": "one"})
    assert (answer["status"], again["body"]["outcome"], again["body"]["id"]) == (202, "duplicate", answer["body"]["id"])
    for said in (b"no JSON", b'{"command": "keep", "body": {}}', b'{"command": "keep", "body": {"text": "pushed"}}'):
        await push.send(said)

    async def both() -> bool:
        return await house.kept() == 2

    await auntil(both, "the pushed command to be stored")
    assert len([line for line in caplog.messages if "is not taken" in line]) == 2

    async def publish() -> None:  # who subscribes is not heard of at once
        while True:
            await house.app.apublish(BidRaised(amount=100))
            await asyncio.sleep(0.05)

    publishing = asyncio.ensure_future(publish())
    async with asyncio.timeout(PATIENCE):
        key, text = await heard.recv_multipart()
    publishing.cancel()
    assert (key, json.loads(text)["body"]) == (b"bid.raised", {"amount": 100})


async def test_what_is_no_command_or_too_large_ends_nothing(house: House) -> None:
    socket = house.socket(zmq.REQ, "requests")
    for said in (b"", b"\xff", b"[]", b'{"command": 1}', b"[" * 100_000):
        assert (await house.ask(socket, said))["status"] == 400
    large = house.socket(zmq.REQ, "requests")
    await large.send(b"x" * 4 * 1024 * 1024)
    assert (await house.ask(socket, {"command": "divide", "body": {"a": 4, "b": 2}}))["body"]["result"] == 2
    assert not await large.poll(100), "the connection that sent it is closed"
    mute = house.socket(zmq.DEALER, "requests")  # frames that REQ would never send
    await mute.send_multipart([b"", b"", b"x"] * 10)
    assert (await house.ask(socket, {"command": "divide", "body": {"a": 4, "b": 2}}))["status"] == 200


async def test_h6_a_socket_is_for_this_user_only_and_tcp_needs_the_token(tmp_path: Path, house: House) -> None:
    for name in ("requests", "pushes", "events"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    bare = House(_made(tmp_path / "bare"), "tcp")
    with pytest.raises(InvalidSettings, match="needs a token"):
        await bare.doors.run()
    await bare.close()
    async with opened(_made(tmp_path / "tcp"), "tcp", token=TOKEN) as other:
        for wrong in (None, "wrong"):
            stranger = other.socket(zmq.REQ, "requests", wrong)
            await stranger.send(b'{"command": "divide", "body": {"a": 4, "b": 2}}')
            assert not await stranger.poll(100)
        known = other.socket(zmq.REQ, "requests", TOKEN)
        assert (await other.ask(known, {"command": "divide", "body": {"a": 4, "b": 2}}))["status"] == 200


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:7071", "tcp://*:7071", "tcp://192.0.2.1:7071", "tcp://eth0:7071"])
def test_h6_another_interface_than_loopback_is_refused_unless_it_is_said(address: str) -> None:
    with pytest.raises(DefinitionError, match="other machines"):
        Doors(App("auction"), requests=address)
    Doors(App("auction"), requests=address, beyond_loopback=True)


@pytest.mark.parametrize("address", ["inproc://x", "tcp://127.0.0.1", "pgm://x", "127.0.0.1:7071", "ipc://relative"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(DefinitionError, match="is no address"):
        Doors(App("auction"), events=address)
