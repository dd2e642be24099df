"""Events over HTTP: pages, long-polls, server-sent events and WebSockets with the same positions, over real connections."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
import websockets
from websockets.asyncio.client import ClientConnection, connect

from chappe import App, Command, Event, Exchange, Settings
from chappe.engines.contract.archive import Page, Record
from chappe.engines.file.server import Engine
from chappe.messages.envelope import Envelope, Publication
from chappe.web import live, push
from chappe.web.gateway import gateway
from chappe.web.http_protocol import HttpProtocol
from chappe.web.push import PushWebSocket

from ..waiting import PATIENCE, auntil
from .shop import TOKEN


class BidRaised(Event):
    lot: str
    amount: int


class NoteLeft(Event, exchange=Exchange("short", archive=100.0), routing_key="note.left"):
    text: str


class Divide(Command, inline=True):
    a: float
    b: float


class Keep(Command):
    text: str


def record(seq: int) -> Record:
    return Record(seq, 1.0, "x", "a.b", Envelope(f"m{seq}", "t", b"{}"))


class Door:
    """A gateway with its own engine behind a real port."""

    def __init__(self, folder: Path, engine: Engine | None = None, **settings: Any) -> None:
        self.now = 1_800_000_000.0
        self.owns_engine = engine is None
        self.engine = engine or Engine(folder / "chappe.db", now=lambda: self.now, grace=0.0)
        self.app = App("auction")
        self.app.knows(BidRaised, NoteLeft)

        @self.app.handles(Divide)
        async def divide(command: Divide) -> float:
            return command.a / command.b

        @self.app.handles(Keep)
        async def keep(command: Keep) -> None: ...

        self.app.configure(Settings(broker=f"sqlite:///{folder / 'chappe.db'}", **settings), engine=self.engine)
        self.server = uvicorn.Server(
            uvicorn.Config(
                gateway(self.app), host="127.0.0.1", port=0, http=HttpProtocol, ws=PushWebSocket, ws_per_message_deflate=False,
                ws_max_size=push.LARGEST_FRAME, lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=60,
            )
        )  # fmt: skip
        self.http = httpx2.AsyncClient(timeout=PATIENCE, trust_env=False)

    @property
    def port(self) -> int:
        return self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    def websocket(self, query: str = "", **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/events?{query}", proxy=None, **options)

    @contextlib.asynccontextmanager
    async def stream(self, query: str = "", **headers: str) -> AsyncIterator["Stream"]:
        async with self.http.stream("GET", f"{self.url}?live=sse&{query}", headers=headers) as answer:
            assert answer.status_code == 200
            yield Stream(answer)

    async def raise_bids(self, *amounts: int) -> None:
        await self.app.asend([BidRaised(lot="vase", amount=amount) for amount in amounts])


class Stream:
    """The events of an SSE answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, Any]:
        event: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE):
            while True:
                line = await anext(self._lines)
                name, _, value = line.partition(": ")
                if line:
                    event[name] = value
                elif "data" in event:
                    told = json.loads(event["data"])
                    assert told["seq"] == int(event["id"])
                    return told
                else:
                    event = {}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as door:
        yield door


@contextlib.asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Door]:
    door = Door(folder, **settings)
    serving = asyncio.ensure_future(door.server.serve())
    await auntil(lambda: door.server.started, "the server to start")
    try:
        yield door
    finally:
        await door.http.aclose()
        door.server.should_exit = True
        await serving
        await door.app.aclose()
        if door.owns_engine:
            door.engine.close()


async def hear(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        return json.loads(await socket.recv())


def amount(told: dict[str, Any]) -> int:
    return told["body"]["amount"]


async def test_m4_pages_go_on_at_the_position_that_the_page_before_named(door: Door) -> None:
    await door.raise_bids(1, 2, 3)
    first = await door.http.get(f"{door.url}?since=0&limit=2")
    assert [amount(told) for told in first.json()] == [1, 2]
    assert first.headers["stream-next-offset"] == f"{2:018d}"
    assert "stream-up-to-date" not in first.headers
    second = await door.http.get(f"{door.url}?offset=2&limit=2&pattern=bid.*")
    assert [(told["seq"], told["type"], told["key"], amount(told)) for told in second.json()] == [(3, "bid.raised", "bid.raised", 3)]
    assert second.headers["stream-up-to-date"] == "true"
    assert (await door.http.get(f"{door.url}?offset=-1&pattern=nothing.*")).json() == []
    assert (await door.http.head(door.url)).status_code == 200


async def test_m4_a_page_without_a_position_begins_at_the_beginning_and_head_tells_the_end(door: Door) -> None:
    await door.raise_bids(1, 2)
    assert [amount(told) for told in (await door.http.get(door.url)).json()] == [1, 2]
    assert (await door.http.head(door.url)).headers["stream-next-offset"] == f"{2:018d}"


async def test_d12_a_long_poll_is_answered_by_the_next_event_or_with_204(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    await door.raise_bids(1)
    polling = asyncio.ensure_future(door.http.get(f"{door.url}?since=1&live=long-poll"))
    await auntil(lambda: door.engine.waits._waiters.get(""), "the poll to wait")
    await door.raise_bids(2)
    assert [amount(told) for told in (await polling).json()] == [2]
    monkeypatch.setattr(live, "_LONGEST_POLL", 0.01)
    nothing = await door.http.get(f"{door.url}?since=2&live=long-poll")
    assert (nothing.status_code, nothing.headers["stream-next-offset"]) == (204, f"{2:018d}")


async def test_m4_a_websocket_hears_the_past_and_then_the_present(door: Door) -> None:
    await door.raise_bids(*range(10))
    async with door.websocket("since=4&pattern=bid.*") as socket:
        assert await hear(socket) == {"seq": 4, "type": "chappe.position"}
        await door.raise_bids(*range(10, 20))
        told = [await hear(socket) for _ in range(16)]
        assert [one["seq"] for one in told] == list(range(5, 21))
        assert [amount(one) for one in told] == list(range(4, 20))


async def test_m4_server_sent_events_go_on_behind_the_last_event_id(door: Door) -> None:
    await door.raise_bids(0, 1, 2)
    async with door.stream("since=0", **{"Last-Event-ID": "2"}) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        assert (await stream.next())["seq"] == 2
        await door.raise_bids(3)
        assert [amount(await stream.next()) for _ in range(2)] == [2, 3]


async def test_without_since_only_what_comes_is_heard_and_the_position_is_told_at_once(door: Door) -> None:
    await door.raise_bids(1)
    async with door.websocket() as socket, door.stream() as stream:
        assert (await hear(socket))["seq"] == (await stream.next())["seq"] == 1
        await door.raise_bids(2)
        assert amount(await hear(socket)) == amount(await stream.next()) == 2


async def test_m4_no_hole_and_no_repeat_while_clients_come_and_go_at_random(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AT_ONCE", 7)
    total = 400

    async def publish() -> None:
        for first in range(0, total, 4):
            await door.raise_bids(*range(first, first + 4))
            await asyncio.sleep(0)

    async def listen(cuts: int, kind: str) -> list[int]:
        seen, position = [], 0
        while len(seen) < total:
            async with contextlib.AsyncExitStack() as stack:
                if kind == "websocket":
                    socket = await stack.enter_async_context(door.websocket(f"since={position}"))
                    following = lambda: hear(socket)  # noqa: E731
                else:
                    following = (await stack.enter_async_context(door.stream(f"since={position}"))).next
                for _ in range(cuts):
                    told = await following()
                    position = told["seq"]
                    if told["type"] == "bid.raised":
                        seen.append(amount(told))
                    if len(seen) == total:
                        break
        return seen

    found = await asyncio.gather(publish(), *(listen(n, kind) for n in (3, 17, 50) for kind in ("websocket", "sse")))
    assert all(seen == list(range(total)) for seen in found[1:])


async def test_m4_lost_history_is_the_first_thing_that_a_client_hears(door: Door) -> None:
    await door.app.asend([NoteLeft(text="1"), NoteLeft(text="2")])
    door.now += 200
    door.engine.prune()
    await door.app.asend(NoteLeft(text="3"))
    lost = {"seq": 2, "type": "chappe.lost", "lost": 1}
    page = (await door.http.get(f"{door.url}?since=1")).json()
    assert page[0] == lost
    assert page[1]["body"] == {"text": "3"}
    async with door.websocket("since=1") as socket, door.stream("since=1") as stream:
        assert [(await hear(socket)).get("seq") for _ in range(3)] == [1, 2, 3]
        await stream.next()
        assert await stream.next() == lost
    assert (await door.http.get(f"{door.url}?since=0")).json()[0]["seq"] == 3
    async with door.websocket("since=999") as socket:
        await hear(socket)
        assert await hear(socket) == {"seq": 3, "type": "chappe.lost", "lost": -1}


async def test_h12_what_is_no_json_is_told_in_base64_and_other_texts_as_they_are(door: Door) -> None:
    connection, text = await door.app.connection(), "Æ¢V→−≠É–È„⋅®…\n"
    bodies = [b"\xff\x00\n", json.dumps({"text": text}, indent=2).encode(), b'{"a": 1' + b"0" * 400 + b"}", b"NaN"]
    await connection.broker.publish([Publication(Envelope(str(n), "foreign", body), "foreign", "events") for n, body in enumerate(bodies)])
    async with door.stream("since=0") as stream:
        await stream.next()
        told = [await stream.next() for _ in bodies]
    assert told[0]["body"] == "/wAK"
    assert told[0]["base64"] is True
    assert told[1]["body"] == {"text": text}
    assert [one["seq"] for one in told] == [1, 2, 3, 4]


async def test_d11_a_client_that_stops_reading_is_closed_and_no_other_waits_for_it(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "MOST_BUFFERED", 200_000)
    async with door.websocket() as good, door.stream() as stream:
        await hear(good)
        await stream.next()
        deaf = [await asyncio.open_connection("127.0.0.1", door.port, limit=2**16) for _ in range(2)]
        deaf[0][1].write(f"GET /events?live=sse HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n\r\n".encode())
        handshake = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
        deaf[1][1].write(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n{handshake}\r\n".encode())
        for reader, _ in deaf:
            await reader.readuntil(b"chappe.position")
        listening = door.server.server_state.connections
        before = len(listening)
        count = 0
        while len(listening) > before - 2:
            assert count < 5000, "who does not read is still there"
            await door.app.asend(BidRaised(lot="x" * 30_000, amount=count))
            assert amount(await hear(good)) == amount(await stream.next()) == count
            count += 1
        for _, writer in deaf:
            writer.close()


async def test_d11_each_gateway_tells_its_own_clients_and_a_client_goes_on_at_another(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path, engine=one.engine) as two:
        async with one.websocket() as here, two.websocket() as there:
            assert await hear(here) == await hear(there)
            await one.raise_bids(1, 2)
            told = [await hear(here) for _ in range(2)]
            assert told == [await hear(there) for _ in range(2)]
        async with two.websocket(f"since={told[0]['seq']}") as moved:
            await hear(moved)
            assert await hear(moved) == told[1]


async def test_d17_a_gateway_that_ends_sends_its_listeners_away_with_nothing_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "SPREAD", 0.05)
    async with opened(tmp_path) as door:
        socket = await door.websocket()
        async with door.stream() as stream:
            await hear(socket)
            await stream.next()
            await door.raise_bids(1)
            door.server.should_exit = True
            assert amount(await hear(socket)) == amount(await stream.next()) == 1
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                await hear(socket)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            with pytest.raises(StopAsyncIteration):
                await stream.next()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("since=yesterday", 422),
        ("since=last", 422),
        ("pattern=a..b", 422),
        ("pattern=", 422),
        ("limit=0", 422),
        ("limit=x", 422),
        ("live=x", 400),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_its_reason(door: Door, query: str, status: int) -> None:
    answer = await door.http.get(f"{door.url}?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    if not query.startswith(("limit", "live")):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            await door.websocket(query)
        assert refused.value.response.status_code == status


async def test_m5_a_command_over_the_socket_is_answered_as_over_http(door: Door) -> None:
    root = f"http://127.0.0.1:{door.port}/commands/"
    async with door.websocket() as socket:
        await hear(socket)

        async def ask(**asked: Any) -> dict[str, Any]:
            await socket.send(json.dumps(asked))
            return await hear(socket)

        for body in ({"a": 6, "b": 3}, {"a": "six", "c": 1}, [], {"a": 1, "b": 0}):
            by_http = await door.http.post(root + "divide", json=body)
            by_socket = await ask(command="divide", body=body, ref="r")
            assert (by_socket["type"], by_socket["ref"], by_socket["status"]) == ("chappe.answer", "r", by_http.status_code)
            varying = {"id": None, "detail": None, "seconds": None}
            assert by_socket["body"] | varying == by_http.json() | varying
        assert (await ask(command="nothing", body={}))["status"] == 404
        first = await ask(command="keep", body={"text": "x"}, key="k", ref=1)
        again = await door.http.post(root + "keep", json={"text": "x"}, headers={"Idempotency-Key": "k"})
        assert (first["status"], first["body"]["outcome"], again.json()["outcome"]) == (202, "stored", "duplicate")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"command": 1, "body": {}}', '{"command": "x"}', '{"command": "x", "body": {}, "to": 1}', b"\xff"]
)
async def test_what_is_no_command_is_refused_and_the_socket_goes_on(door: Door, text: str | bytes) -> None:
    async with door.websocket() as socket:
        await hear(socket)
        await socket.send(text)
        answer = await hear(socket)
        assert (answer["type"], answer["status"], answer["body"]["title"]) == ("chappe.answer", 400, "This is no command")
        await door.raise_bids(1)
        assert amount(await hear(socket)) == 1


async def test_another_site_may_not_listen(door: Door) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            await door.websocket(additional_headers=headers)
        assert refused.value.response.status_code in (403, 421)
    assert (await door.http.get(door.url, headers={"Origin": "https://evil.example"})).status_code == 403
    async with door.websocket(origin=f"http://127.0.0.1:{door.port}") as socket:
        await hear(socket)


async def test_a_token_is_needed_where_one_is_set_and_browsers_offer_it_as_a_subprotocol(tmp_path: Path) -> None:
    async with opened(tmp_path, token=TOKEN) as door:
        for protocols in (None, ["chappe", "bearer.wrong"]):
            with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                await door.websocket(subprotocols=protocols)
            assert refused.value.response.status_code == 401
        async with door.websocket(subprotocols=["chappe", f"bearer.{TOKEN}"]) as socket:
            assert socket.subprotocol == "chappe"
            await hear(socket)
        async with door.websocket(additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
            await hear(socket)


async def test_a_huge_frame_closes_its_own_socket_only(door: Door) -> None:
    async with door.websocket() as other:
        await hear(other)
        socket = await door.websocket()
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            await socket.send("x" * (push.LARGEST_FRAME + 1))
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            while True:
                await hear(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        await door.raise_bids(1)
        assert amount(await hear(other)) == 1


async def test_an_upgrade_to_something_else_is_a_request_like_any_other(door: Door) -> None:
    answer = await door.http.get(f"http://127.0.0.1:{door.port}/livez", headers={"Connection": "Upgrade", "Upgrade": "h2c"})
    assert answer.status_code == 200


async def test_pages_and_the_client_for_browsers_are_served_beside_the_routes(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/index.html").write_text("<title>lots</title>")
    async with opened(tmp_path, pages=str(tmp_path / "pages")) as door:
        root = f"http://127.0.0.1:{door.port}"
        assert "lots" in (await door.http.get(f"{root}/")).text
        client = await door.http.get(f"{root}/chappe.js")
        assert client.headers["content-type"].startswith("text/javascript")
        assert (await door.http.get(f"{root}/../chappe.db")).status_code == 404
        assert (await door.http.get(f"{root}/%2e%2e/chappe.db")).status_code == 404
    with pytest.raises(ValueError, match="must be a folder"):
        Settings(pages=str(tmp_path / "nowhere"))


async def test_a_listener_is_not_taken_for_a_request_that_does_not_come(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline of the HTTP protocol ends with the handshake."""
    async with door.websocket() as socket:
        await hear(socket)
        (connection,) = [c for c in door.server.server_state.connections if isinstance(c, PushWebSocket)]
        assert connection.silence is None
        assert not [c for c in door.server.server_state.connections if isinstance(c, HttpProtocol) and c._stage == "upgraded"]


async def test_a_listener_hears_what_comes_once_whether_it_has_read_further_than_others_or_the_archive_is_another_one() -> None:
    pages = [Page([], 5, 5), Page([record(6), record(7), record(8)], 8, 8), Page([record(1)], 1, 1), Page([record(2)], 2, 2)]
    told: dict[str, list[int]] = {"with": [], "ahead": [], "behind": []}
    joined, ended = asyncio.Event(), asyncio.Event()

    class Archive:
        async def archived(self, after: int, limit: int, *, pattern: str = "#", wait: float = 0.0) -> Page:
            if wait:
                await joined.wait()
            if not pages:
                ended.set()
                await asyncio.Event().wait()
            return pages.pop(0)

    class Pushed:
        def __init__(self, name: str) -> None:
            self.name = name

        def push(self, data: bytes) -> bool:
            told[self.name] += json.loads(data)
            return True

    async def archive() -> Any:
        return Archive()

    def make(said: list[Any]) -> bytes:
        return json.dumps([one.seq for one in said]).encode()

    hub = live.Hub(archive)
    await hub.ready()
    listeners = {name: live.Listener(Pushed(name), "#", make, at) for name, at in (("with", 5), ("ahead", 7), ("behind", 4))}  # type: ignore[arg-type]
    assert [hub.join(listener) for listener in listeners.values()] == [True, True, False]
    joined.set()
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
    await hub.close()
    assert told == {"with": [6, 7, 8, 0, 1, 2], "ahead": [8, 0, 1, 2], "behind": []}
    assert {message_id: clients for message_id, (_, clients) in hub.pushed.items()} == {"m6": 2, "m7": 2, "m8": 2, "m1": 2, "m2": 2}
