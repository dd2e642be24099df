"""RabbitMQ and PostgreSQL under test: real servers of our own, emptied for each test, killed by those that kill."""

# A death and a cut cable are made from inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg
from pika import spec

from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore
from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.broker import _SETTLING, RabbitBroker
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import ARCHIVE, RELAY
from chappe.errors import BrokerError, NotFound

from ..servers.postgres import PostgresNode
from ..servers.rabbitmq import RabbitNode
from ..servers.shared import Database, Vhost
from . import tables
from .engine import EngineUnderTest, Peer

_WRITTEN = 0.5
_FINDS = 120.0
_PASSES = 5.0  # seconds: what is longer passes by the clock that all statements ask
_ALL_FOUND = """
    try lists:all(fun(Q) -> case amqqueue:get_pid(Q) of
        {Name, Node} -> case ra:members({Name, Node}, 1000) of {ok, _, {_, _}} -> true; _ -> false end;
        Pid -> is_pid(Pid) andalso rpc:call(node(Pid), erlang, is_process_alive, [Pid])
    end end, rabbit_amqqueue:list()) catch exit:{aborted, {no_exists, _}} -> false end.
"""


def cut(broker: RabbitBroker) -> None:
    """Lose all connections to RabbitMQ, as if the network had failed."""
    broker._outlet.cut()
    for link in (broker._asking, *(consumer.pushing.subscriptions.link for consumer in broker._consumers)):
        if link is not None:
            link.cut()


class SharedServers:
    """Places in servers that others use too: they run always."""

    running = True

    def __init__(self, rabbit: Vhost, postgres: Database) -> None:
        self.rabbit = rabbit
        self.postgres = postgres

    def start(self) -> None:
        """They run."""

    def kill(self) -> None:
        """Nobody may kill what others use."""
        raise AssertionError("a test that kills the engine is marked with pytest.mark.restarts")


class OwnServers:
    """One RabbitMQ node and one PostgreSQL server that nobody else uses meanwhile."""

    def __init__(self, rabbit: RabbitNode, postgres: PostgresNode) -> None:
        self.rabbit = rabbit
        self.postgres = postgres
        self.running = True

    def start(self) -> None:
        if not self.running:
            self.postgres.start()
            self.rabbit.start()
            self.running = True  # whatever is found of it
            until = time.monotonic() + _FINDS
            while self.rabbit.control("eval", _ALL_FOUND).strip() != "true":  # it answers before it has found its queues again
                assert time.monotonic() < until, "RabbitMQ did not find its queues again"

    def kill(self) -> None:
        if self.running:
            self.rabbit.kill()
            self.postgres.kill()
            self.running = False


class Wire:
    """A way to a server that can be cut, and mended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.is_cut = False
        self.server: asyncio.Server

    async def start(self) -> int:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._serving.add(me)
        me.add_done_callback(self._serving.discard)
        if self.is_cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        pumps = [asyncio.ensure_future(_pump(reader, back)), asyncio.ensure_future(_pump(there, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, back):
            self._open.discard(end)
            end.transport.abort()
        await asyncio.gather(*pumps, return_exceptions=True)

    def cut(self) -> None:
        self.is_cut = True
        for end in list(self._open):
            end.transport.abort()

    async def close(self) -> None:
        self.cut()
        self.server.close()
        await asyncio.gather(*self._serving, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()


async def _delete_stream(link: Link) -> None:
    """Delete the archive; RabbitMQ may still be about to find it again after a crash."""
    until = time.monotonic() + _FINDS
    while True:
        try:
            await link.delete(ARCHIVE)
        except NotFound:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)
        else:
            return


class DistributedEngine(EngineUnderTest):
    """RabbitMQ with PostgreSQL beside it."""

    quiet = 0.1
    patience = 60.0
    moves_time = True
    soon = 60.0
    keeps_order_of_losses = False
    pauses_at_once = False
    counts_exchanges = False

    def __init__(self, servers: SharedServers | OwnServers) -> None:
        self._servers = servers
        self._fresh = True
        self._settled = False
        self._moved = 0.0
        self._peers: list[tuple[RabbitBroker, PostgresBroker, Wire]] = []

    async def start(self) -> None:
        self._servers.start()
        if self._fresh:
            self._fresh = False
            await self._empty()
        elif self._moved:
            async with await self._connected() as connection:
                await tables.set_clock(connection, self._moved)

    async def _empty(self) -> None:
        """Delete what an earlier test left."""
        async with await self._connected() as connection:
            if not await tables.are_there(connection):
                return
            queues = [name for (name,) in await (await connection.execute("select name from queue")).fetchall() if name != RELAY]
            exchanges = [name for (name,) in await (await connection.execute("select name from exchange")).fetchall()]
            link = await Link.open(Address.parse(self._servers.rabbit.url), name="empties", deadline=60.0)
            try:
                await asyncio.gather(*(link.delete(name) for name in queues))
                if exchanges:  # else nothing can have been archived
                    await _delete_stream(link)
                for name in exchanges:
                    await link._declare("delete", spec.Exchange.Delete(exchange=name))
            finally:
                await link.close()
            await tables.empty(connection)
            await tables.set_clock(connection, self._moved)

    async def stop(self) -> None:
        # Nothing tells when RabbitMQ has written down a new queue, or an acknowledgement: what it had not may be there again (the matrix says so).
        await asyncio.sleep(_WRITTEN if self._settled else _SETTLING)
        self._settled = True
        self._servers.kill()

    async def connect(self, *, deadline: float = 60.0) -> Peer:
        address = Address.parse(self._servers.rabbit.url)
        wire = Wire(address.hosts[0][1])
        port = await wire.start()
        kept = PostgresBroker(self._servers.postgres.url, deadline=deadline, relay=RELAY)
        broker = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{port}/{address.vhost.strip('/')}", kept, deadline=deadline, settling=0.0)
        self._peers.append((broker, kept, wire))

        async def close() -> None:
            await broker.close()
            await wire.close()

        async def vanish() -> None:
            await self._vanish(broker, kept, wire)

        @asynccontextmanager
        async def cut() -> AsyncGenerator[None]:
            wire.cut()
            try:
                yield
            finally:
                wire.is_cut = False

        return Peer(broker, PostgresStore(kept, broker), close, vanish, cut)

    async def _vanish(self, broker: RabbitBroker, kept: PostgresBroker, wire: Wire) -> None:
        wire.cut()
        for consumer in broker._consumers:
            consumer._closed = consumer.pushing._closed = True
        cut(broker)
        kept.database._closed = True
        with contextlib.suppress(Exception):
            await kept.close()
        with contextlib.suppress(BrokerError):
            await broker.close()
        await wire.close()

    async def drop_peers(self) -> None:
        peers, self._peers = self._peers, []
        for broker, kept, wire in peers:
            await self._vanish(broker, kept, wire)

    def now(self) -> float:
        return time.time() + self._moved

    async def advance(self, seconds: float) -> None:
        if seconds <= _PASSES:
            await asyncio.sleep(seconds)
            return
        if not self._servers.running:
            self._moved += seconds
            return
        self._moved += seconds
        async with await self._connected() as connection:
            await tables.set_clock(connection, self._moved)
        for _, kept, _ in self._peers:
            kept.tending.look()  # their timers know nothing of it

    async def _connected(self) -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(self._servers.postgres.url, autocommit=True)

    async def close(self) -> None:
        await self.drop_peers()
        self._servers.start()
