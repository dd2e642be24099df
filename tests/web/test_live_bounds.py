"""What clients of the WebSocket that are silent, half gone, or mean harm can have the gateway keep: counts, which stay small."""

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from chappe.web import live, push
from chappe.web.asked import MOST_AT_ONCE
from chappe.web.push import PushWebSocket

from ..waiting import PATIENCE, auntil
from .test_live import Door, door

__all__ = ["door"]

HANDSHAKE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
TEXT, CONTINUED, PING = 0x1, 0x0, 0x9
ONE_READ = 256 * 1024  # bytes that asyncio reads at once


class Raw:
    """A WebSocket of which nothing is read and nothing answered, unless the test does it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, door: Door) -> "Raw":
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port, limit=2**16)
        writer.write(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%b\r\n" % (door.port, HANDSHAKE))
        await reader.readuntil(b"chappe.position")
        return cls(reader, writer)

    def send(self, opcode: int, data: bytes = b"", *, is_end: bool = True, length: int | None = None, times: int = 1) -> None:
        size = len(data) if length is None else length
        head = bytes((opcode | (0x80 if is_end else 0),)) + (bytes((0x80 | size,)) if size < 126 else b"\xff" + struct.pack("!Q", size))
        self.writer.write((head + bytes(4) + data) * times)

    async def closed(self) -> bytes:
        """Return what came until the connection ended."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read(-1)
            except ConnectionResetError:
                return b""


Opener = Callable[[], Awaitable[Raw]]


@pytest.fixture
async def raw(door: Door) -> AsyncIterator[Opener]:
    """Open a WebSocket, which is closed when the test ends."""
    opened: list[Raw] = []

    async def one() -> Raw:
        opened.append(await Raw.open(door))
        return opened[-1]

    yield one
    for client in opened:
        client.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await client.writer.wait_closed()


def protocols(door: Door) -> list[PushWebSocket]:
    return [one for one in door.server.server_state.connections if isinstance(one, PushWebSocket)]


def largest(protocol: PushWebSocket, monkeypatch: pytest.MonkeyPatch, look: Callable[[PushWebSocket], int]) -> list[int]:
    """Return a list of one number: the largest that was seen behind each read."""
    seen, received = [0], protocol.data_received

    def watched(data: bytes) -> None:
        received(data)
        seen[0] = max(seen[0], look(protocol))

    monkeypatch.setattr(protocol, "data_received", watched)
    return seen


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many listeners the hub of the gateway knows."""
    hubs: set[live.Hub] = set()
    ready = live.Hub.ready

    async def watched(hub: live.Hub) -> None:
        hubs.add(hub)
        await ready(hub)

    monkeypatch.setattr(live.Hub, "ready", watched)
    return lambda: sum(len(group) for hub in hubs for group in hub._groups.values())


async def test_clients_that_say_nothing_leave_nothing_behind_when_they_vanish(
    door: Door, raw: Opener, listening: Callable[[], int]
) -> None:
    clients = [await raw() for _ in range(30)]
    await auntil(lambda: listening() == 30, "all to listen")
    assert len(protocols(door)) == 30
    for client in clients:
        client.writer.transport.abort()
    await auntil(lambda: not protocols(door) and not listening(), "all to be forgotten")


async def test_a_client_that_is_half_gone_is_hung_up_on_when_it_answers_no_ping(
    door: Door, raw: Opener, listening: Callable[[], int]
) -> None:
    door.server.config.ws_ping_interval = door.server.config.ws_ping_timeout = 0.05
    await raw()
    await auntil(lambda: not protocols(door) and not listening(), "it to be forgotten")


async def test_a_frame_that_says_it_is_huge_is_refused_by_its_length(raw: Opener) -> None:
    client = await raw()
    client.send(TEXT, b"x" * 1000, length=2**40)
    assert struct.pack("!H", 1009) in await client.closed()


@pytest.mark.parametrize("piece", [b"x" * 100, b"x", b""])
async def test_a_message_in_fragments_without_end_is_refused(
    door: Door, raw: Opener, monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    client = await raw()
    (protocol,) = protocols(door)
    fragments = largest(protocol, monkeypatch, lambda one: len(one.frames))
    client.send(TEXT, piece, is_end=False)
    while protocols(door):
        client.send(CONTINUED, piece, is_end=False, times=1000)
        await asyncio.sleep(0)
    assert protocol.conn.close_sent is not None
    assert protocol.conn.close_sent.code == 1009
    assert fragments[0] <= push.MOST_FRAGMENTS + ONE_READ // 6


async def test_answers_to_pings_are_not_kept_for_who_does_not_read_them(door: Door, raw: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "MOST_BUFFERED", 100_000)
    client = await raw()
    (protocol,) = protocols(door)
    kept = largest(protocol, monkeypatch, lambda one: one.transport.get_write_buffer_size())
    while protocols(door):
        client.send(PING, os.urandom(125), times=1000)
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                await client.writer.drain()
    assert kept[0] <= push.MOST_BUFFERED + 2 * ONE_READ


async def test_commands_are_not_read_ahead_of_those_that_are_being_answered(
    door: Door, raw: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = 0, asyncio.Event()
    broker = (await door.app.connection()).broker
    publish = broker.publish

    async def held(*arguments: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return await publish(*arguments, **options)

    monkeypatch.setattr(broker, "publish", held)
    client = await raw()
    (protocol,) = protocols(door)
    waiting = largest(protocol, monkeypatch, lambda one: one.queue.qsize())
    command = b'{"command": "keep", "body": {"text": "x"}}'
    client.send(TEXT, command, times=50_000)
    await auntil(lambda: begun == MOST_AT_ONCE, "as many as are answered at once")
    assert protocol.read_paused
    assert waiting[0] <= 2 * ONE_READ // len(command)
    go_on.set()
    await auntil(lambda: begun > 2 * MOST_AT_ONCE, "the others")
    client.writer.transport.abort()
    await auntil(lambda: not protocols(door), "it to be forgotten")
