"""The file engine under test: once inside this process with a clock of its own, once as a killed process."""

# A death and a cut cable are made from inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from chappe.engines.file.broker import FileBroker
from chappe.engines.file.client import Client
from chappe.engines.file.server import Engine
from chappe.engines.file.serving import serve
from chappe.engines.file.store import store_of

from ..commands import FORK
from .engine import EngineUnderTest, Peer

_START: Final = 1_000_000.0
_PATIENCE: Final = 60.0


@asynccontextmanager
async def _cut(client: Client) -> AsyncGenerator[None]:
    """Hang up, and lead the client nowhere until it may find the engine again."""
    way = client.path, client._engine, client._may_own_file
    client.path, client._engine, client._may_own_file = client.path.with_name("nowhere"), None, False
    client._close_link()
    if way[1] is not None:
        client.unlinked(client._link)
    try:
        yield
    finally:
        client.path, client._engine, client._may_own_file = way


class _FileEngine(EngineUnderTest):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "chappe.db"
        self._brokers: list[FileBroker] = []

    def _peer(self, broker: FileBroker) -> Peer:
        self._brokers.append(broker)
        return Peer(broker, store_of(broker), close=broker.close, vanish=broker.close, cut=lambda: _cut(broker))

    async def drop_peers(self) -> None:
        for broker in self._brokers:
            await broker.close()
        self._brokers.clear()


class InsideEngine(_FileEngine):
    """The engine inside the process."""

    moves_time = True
    time_stands = True
    soon = 60.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._clock = _START
        self._engine: Engine | None = None
        self._dead: Engine | None = None

    async def start(self) -> None:
        self._engine = Engine(self.path, now=self.now, grace=0.0)

    async def stop(self) -> None:
        """Leave the file as a killed process leaves it: nothing is tidied up, an open transaction is lost."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        engine.stopped.set_result(None)
        engine.ledger.turn.db.close()
        engine._ownership.close()
        for timer in [*engine._timers, engine._due]:
            if timer is not None:
                timer.cancel()
        for connection in engine.connections:
            connection.closed = True
            for _, timer in connection.receiving.values():
                timer.cancel()
        self._dead = engine

    async def connect(self, *, deadline: float = 60.0) -> Peer:
        return self._peer(FileBroker(self.path, engine=self._engine or self._dead, deadline=deadline))

    def now(self) -> float:
        return self._clock

    async def advance(self, seconds: float) -> None:
        self._clock += seconds
        if self._engine is not None:
            self._engine.schedule()


def _serve(path: Path, ready: Path) -> None:
    asyncio.run(serve(path, ready.touch))


class SocketEngine(_FileEngine):
    """The engine as a process of its own, killed with SIGKILL."""

    peers_survive = True
    quiet = 0.05

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ready = folder / "ready"
        self._process: ForkServerProcess | None = None

    async def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        self._process = FORK.Process(target=_serve, args=(self.path, self._ready), daemon=True)
        self._process.start()
        deadline = time.monotonic() + _PATIENCE
        while not self._ready.exists():
            assert self._process.is_alive() and time.monotonic() < deadline, "the engine did not come up"
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()
            process.close()

    async def connect(self, *, deadline: float = 60.0) -> Peer:
        return self._peer(FileBroker(self.path, may_own_file=False, deadline=deadline))

    def now(self) -> float:
        return time.time()

    async def advance(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
