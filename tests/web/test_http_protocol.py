"""A client that speaks slowly, endlessly or not at all, against a real server."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from chappe.web import http_protocol
from chappe.web.http_protocol import HttpProtocol

from ..waiting import PATIENCE, auntil


class Server:
    """A uvicorn whose application says back what it read, when it is allowed to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.refuses = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.left = 0
        config = uvicorn.Config(
            self.app,
            host="127.0.0.1",
            port=0,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            timeout_keep_alive=60,
        )
        self.server = uvicorn.Server(config)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        self.headers.append(dict(scope["headers"]))
        if self.refuses:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"no"})
            return
        await self.may_read.wait()
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def deadlines(self) -> list[object]:
        """Return the deadline of each connection, none where nothing is waited for."""
        return [connection._deadline for connection in self.server.server_state.connections]

    @property
    def port(self) -> int:
        return self.server.servers[0].sockets[0].getsockname()[1]

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN", 60.0)
    monkeypatch.setattr(http_protocol, "BODY_WITHIN", 60.0)
    made = Server()
    running = asyncio.ensure_future(made.server._serve())
    await auntil(lambda: made.server.started)
    yield made
    made.may_answer.set()
    made.may_read.set()
    made.server.should_exit = made.server.force_exit = True
    await running


@pytest.fixture
def hasty(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with deadlines that are soon over."""
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN", 0.4)
    monkeypatch.setattr(http_protocol, "BODY_WITHIN", 0.8)
    return server


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """Read one response and give its status and body."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    lines = head.decode().split("\r\n")
    headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:] if line}
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), PATIENCE)
    status = int(lines[0].split()[1])
    if status >= 400:
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        return status, json.loads(body)
    return status, body


async def hung_up(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), PATIENCE) == b""
    return True


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send a piece again and again, as a client that wants to be taken for a slow one."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)


async def test_headers_that_come_slowly_are_408_although_something_always_comes(hasty: Server) -> None:
    async with hasty.client() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        dripping = asyncio.ensure_future(drip(writer, b"X-Slow: 1\r\n"))
        status, problem = await answer_of(reader)
        assert (status, problem["title"]) == (408, "The headers did not come in time")
        assert await hung_up(reader)
        dripping.cancel()
    assert hasty.bodies == []


async def test_a_body_that_comes_slowly_is_408(hasty: Server) -> None:
    async with hasty.client() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        dripping = asyncio.ensure_future(drip(writer, b"x"))
        status, problem = await answer_of(reader)
        assert (status, problem["title"]) == (408, "The body did not come in time")
        assert await hung_up(reader)
        dripping.cancel()
    await auntil(lambda: hasty.left == 1, "the application to hear that the client is gone")


async def test_who_says_nothing_at_all_is_hung_up_on_in_silence(hasty: Server) -> None:
    async with hasty.client() as (reader, _):
        assert await hung_up(reader)


async def test_empty_lines_do_not_keep_a_connection(hasty: Server) -> None:
    async with hasty.client() as (reader, writer):
        writer.write(GET)
        assert (await answer_of(reader))[0] == 200
        dripping = asyncio.ensure_future(drip(writer, b"\r\n"))
        assert await hung_up(reader)
        dripping.cancel()


async def test_the_second_request_of_a_connection_has_a_deadline_too(hasty: Server) -> None:
    async with hasty.client() as (reader, writer):
        writer.write(GET)
        assert (await answer_of(reader))[0] == 200
        writer.write(b"GET / HT")
        assert (await answer_of(reader))[0] == 408


async def test_who_waits_for_an_answer_is_not_hurried(server: Server) -> None:
    server.may_answer.clear()
    async with server.client() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab\r\n")
        await auntil(lambda: server.bodies == [b"ab"])
        assert server.deadlines() == [None]
        server.may_answer.set()
        assert (await answer_of(reader))[0] == 200


async def test_a_body_that_we_do_not_read_is_not_late(server: Server) -> None:
    server.may_read.clear()
    async with server.client() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n" + b"x" * 500_000)
        (connection,) = server.server.server_state.connections
        await auntil(lambda: connection.flow.read_paused, "the server to read no more")
        connection._expired()  # its deadline passes
        server.may_read.set()
        writer.write(b"x" * 400_000)
        assert (await answer_of(reader))[0] == 200
    assert len(server.bodies[0]) == 900_000


async def test_a_connection_that_is_used_again_and_again_lives(server: Server) -> None:
    async with server.client() as (reader, writer):
        for _ in range(5):
            writer.write(GET)
            assert (await answer_of(reader))[0] == 200
            await auntil(lambda: server.deadlines() == [None], "the answer to be the end of the request")


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    async with server.client() as (reader, writer):
        writer.write(GET * 3)
        assert [(await answer_of(reader))[0] for _ in range(3)] == [200, 200, 200]


async def test_headers_without_end_are_431_before_they_fill_the_memory(server: Server) -> None:
    async with server.client() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Endless: ")
        answer = asyncio.ensure_future(answer_of(reader))
        sent = 0
        while not answer.done():
            writer.write(b"x" * 10_000)
            await writer.drain()
            sent += 10_000
            await asyncio.sleep(0.01)
        assert (await answer)[0] == 431
    assert sent <= 2 * http_protocol.LARGEST_HEAD


async def test_what_is_no_http_is_400(server: Server) -> None:
    async with server.client() as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        status, problem = await answer_of(reader)
        assert (status, problem["title"]) == (400, "The request is not HTTP")
        assert await hung_up(reader)


async def test_garbage_behind_a_request_does_not_deny_that_it_was_taken(server: Server) -> None:
    server.may_answer.clear()
    async with server.client() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab\x00\x01\x02 more than was said\r\n\r\n")
        await auntil(lambda: server.bodies == [b"ab"])
        server.may_answer.set()
        assert (await answer_of(reader))[0] == 200
        assert await hung_up(reader)


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"POST http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2, 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +2\r\n\r\nab",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=[
        "encoding",
        "encodings",
        "chunk",
        "whole address",
        "connect",
        "two encodings",
        "encoding and length",
        "encoding in 1.0",
        "two lengths",
        "list of lengths",
        "signed length",
        "folded",
        "bare LF",
        "NUL",
        "space in name",
        "2.0",
        "preface",
    ],
)
async def test_what_could_mean_two_things_is_400_at_once(server: Server, request_: bytes) -> None:
    async with server.client() as (reader, writer):
        writer.write(request_)
        status, problem = await answer_of(reader)
        assert (status, problem["title"]) == (400, "The request is not HTTP")
        assert await hung_up(reader)
    assert server.bodies == []


CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
NAMED = b"Host: evil\r\nAuthorization: Bearer x\r\nContent-Type: text/plain\r\nIdempotency-Key: k\r\n"


async def test_a_trailer_is_never_a_header(server: Server) -> None:
    async with server.client() as (reader, writer):
        writer.write(CHUNKED + b"2\r\nab\r\n0\r\n" + NAMED + b"\r\n" + GET)
        assert [(await answer_of(reader))[0] for _ in range(2)] == [200, 200]
    assert server.headers == [{b"host": b"localhost", b"transfer-encoding": b"chunked"}, {b"host": b"localhost"}]
    assert server.bodies == [b"ab", b""]


@pytest.mark.parametrize(
    "piece",
    [b"a:b\r\n" * 2000, b"x" * 10_000],
    ids=["many", "one long"],
)
@pytest.mark.parametrize("refuses", [False, True], ids=["read", "refused"])
async def test_trailers_without_end_are_bounded(server: Server, piece: bytes, refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "BODY_WITHIN", 60.0)
    server.refuses = refuses
    async with server.client() as (reader, writer):
        writer.write(CHUNKED + b"2\r\nab\r\n0\r\nX: ")
        hearing = asyncio.ensure_future(reader.read())
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not hearing.done():
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            answer = await hearing
            assert answer.startswith(b"HTTP/1.1 200" if refuses else b"HTTP/1.1 431")
    assert sent <= 64 * http_protocol.LARGEST_HEAD, "what waits in the sockets between us counts too"
    assert server.bodies == []


async def test_sizes_of_chunks_without_end_are_431(server: Server) -> None:
    async with server.client() as (reader, writer):
        writer.write(CHUNKED + (b"1;" + b"x" * 30_000 + b"\r\na\r\n") * 10)
        assert (await answer_of(reader))[0] == 431
    assert server.bodies == []


async def test_a_body_in_the_smallest_chunks_is_taken(server: Server) -> None:
    async with server.client() as (reader, writer):
        writer.write(CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n")
        assert (await answer_of(reader))[0] == 200
    assert server.bodies == [b"a" * 100_000]


async def test_a_body_that_was_answered_is_not_read_to_its_end(server: Server) -> None:
    server.refuses = True
    async with server.client() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        assert (await answer_of(reader))[0] == 200
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * 100_000)
                await writer.drain()
                await asyncio.sleep(0)


async def test_a_small_rest_of_a_body_that_was_answered_does_not_end_the_connection(server: Server) -> None:
    server.refuses = True
    async with server.client() as (reader, writer):
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
            assert (await answer_of(reader))[0] == 200
            writer.write(b"x" * 100_000)


WANTED = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "websocket": b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "unknown": b"Connection: keep-alive, upgrade\r\nUpgrade: x, y/2\r\n",
    "lines": b"Connection: upgrade\r\nConnection: x\r\nUpgrade: a\r\nUpgrade: b\r\n",
    "capitals": b"CONNECTION: UPGRADE\r\nUPGRADE: TLS/1.0\r\n",
}


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("wanted", WANTED)
async def test_an_upgrade_that_is_not_known_is_a_request_like_others_with_its_body(
    server: Server, caplog: pytest.LogCaptureFixture, wanted: str, framing: str
) -> None:
    body = GET  # a request in a body is a body
    if framing == "length":
        rest = b"Content-Length: %d\r\n\r\n" % len(body), body
    else:
        rest = b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head, tail = b"POST / HTTP/1.1\r\nHost: localhost\r\n" + WANTED[wanted] + rest[0], rest[1] + GET
    for pieces in [head + tail], [head, tail], [bytes([byte]) for byte in head + tail]:
        server.bodies.clear()
        async with server.client() as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            assert [(await answer_of(reader))[0] for _ in range(2)] == [200, 200]
            writer.write(GET)
            assert (await answer_of(reader))[0] == 200
        assert server.bodies == [body, b"", b""]
    assert caplog.records == []


async def test_an_upgrade_keeps_its_other_headers_and_hangs_up_when_told_to(server: Server) -> None:
    async with server.client() as (reader, writer):
        writer.write(
            b"POST /a?b=%20 HTTP/1.1\r\nHost: localhost\r\nX-Empty:\r\nConnection: upgrade, close\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\nz"
            + GET
        )
        assert (await answer_of(reader))[0] == 200
        assert await hung_up(reader)
    assert server.headers == [{b"host": b"localhost", b"x-empty": b"", b"connection": b"close", b"content-length": b"1"}]
    assert server.bodies == [b"z"]


async def test_who_is_slow_makes_room_for_who_is_not(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN", 60.0)
    monkeypatch.setattr(http_protocol, "most_connections", lambda: 8)
    server.may_answer.clear()
    async with contextlib.AsyncExitStack() as stack:
        waiting = await stack.enter_async_context(server.client())
        waiting[1].write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na")
        await auntil(lambda: server.bodies == [b"a"])
        slow = [await stack.enter_async_context(server.client()) for _ in range(30)]
        for _, writer in slow:
            with contextlib.suppress(ConnectionError):
                writer.write(b"GET / HTTP/1.1\r\nHost: loc")
        await auntil(lambda: len(server.server.server_state.connections) <= 8)
        server.may_answer.set()
        assert (await answer_of(waiting[0]))[0] == 200
        for _ in range(20):
            async with server.client() as (reader, writer):
                writer.write(GET)
                assert (await answer_of(reader))[0] == 200


async def test_a_connection_too_many_is_503_when_all_others_wait_for_us(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "most_connections", lambda: 2)
    server.may_answer.clear()
    async with contextlib.AsyncExitStack() as stack:
        served = [await stack.enter_async_context(server.client()) for _ in range(2)]
        for _, writer in served:
            writer.write(GET)
        await auntil(lambda: len(server.bodies) == 2)
        async with server.client() as (reader, _):
            assert (await answer_of(reader))[0] == 503
            assert await hung_up(reader)
        server.may_answer.set()
        assert [(await answer_of(reader))[0] for reader, _ in served] == [200, 200]


@pytest.mark.parametrize(
    ("allowed", "most", "waiting"), [(64, 20, 11), (256, 212, 11), (1024, 896, 32), (1_000_000, 875_000, 2048), (16, 1, 11)]
)
def test_what_a_process_needs_itself_is_kept(monkeypatch: pytest.MonkeyPatch, allowed: int, most: int, waiting: int) -> None:
    monkeypatch.setattr(http_protocol.resource, "getrlimit", lambda _: (allowed, allowed))
    assert (http_protocol.most_connections(), http_protocol.backlog()) == (most, waiting)


async def test_an_upgrade_is_answered_in_http_and_fills_no_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with server.client() as (reader, writer):
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
        assert (await answer_of(reader))[0] == 200
    assert caplog.records == []
