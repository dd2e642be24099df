"""PostgreSQL by itself under test: a real server of our own, emptied for each test, killed by those that kill."""

# A death and a cut cable are made from inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg

from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore

from ..servers.postgres import PostgresNode
from . import tables
from .distributed import Wire
from .engine import EngineUnderTest, Peer

_PASSES = 5.0  # seconds: what is longer passes by the clock that all statements ask


class PostgresEngine(EngineUnderTest):
    """PostgreSQL by itself."""

    quiet = 0.1
    patience = 60.0
    moves_time = True
    soon = 60.0
    peers_survive = True

    def __init__(self, url: str, node: PostgresNode | None = None) -> None:
        """Use the database at a URL; `node` is its server, where nobody else uses it."""
        self._url = url
        self._node = node
        self._runs = True
        self._fresh = True
        self._moved = 0.0
        self._peers: list[tuple[PostgresBroker, Wire]] = []

    async def start(self) -> None:
        self._up()
        async with await self._connected() as connection:
            if self._fresh:
                self._fresh = False
                if not await tables.are_there(connection):
                    return
                await tables.empty(connection)
            await tables.set_clock(connection, self._moved)

    async def stop(self) -> None:
        assert self._node is not None, "a test that kills the engine is marked with pytest.mark.restarts"
        if self._runs:
            self._node.kill()
            self._runs = False

    def _up(self) -> None:
        if self._node is not None and not self._runs:
            self._node.start()
            self._runs = True

    async def connect(self, *, deadline: float = 60.0) -> Peer:
        parts = urlsplit(self._url)
        wire = Wire(int(parts.port or 5432))
        port = await wire.start()
        host = parts.netloc.rpartition("@")[0]
        url = urlunsplit(parts._replace(netloc=f"{host}@127.0.0.1:{port}" if host else f"127.0.0.1:{port}"))
        broker = PostgresBroker(url, deadline=deadline)
        self._peers.append((broker, wire))

        async def close() -> None:
            await broker.close()
            await wire.close()

        async def vanish() -> None:
            await self._vanish(broker, wire)

        @asynccontextmanager
        async def cut() -> AsyncGenerator[None]:
            wire.cut()
            try:
                yield
            finally:
                wire.is_cut = False

        return Peer(broker, PostgresStore(broker), close, vanish, cut)

    async def _vanish(self, broker: PostgresBroker, wire: Wire) -> None:
        wire.cut()
        broker.database._closed = True
        with contextlib.suppress(Exception):
            await broker.close()
        await wire.close()

    async def drop_peers(self) -> None:
        peers, self._peers = self._peers, []
        for broker, wire in peers:
            await self._vanish(broker, wire)

    def now(self) -> float:
        return time.time() + self._moved

    async def advance(self, seconds: float) -> None:
        if seconds <= _PASSES:
            await asyncio.sleep(seconds)
            return
        self._moved += seconds
        if self._runs:
            async with await self._connected() as connection:
                await tables.set_clock(connection, self._moved)
        for broker, _ in self._peers:
            broker.tending.look()

    async def _connected(self) -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(self._url, autocommit=True)

    async def close(self) -> None:
        await self.drop_peers()
        self._up()
