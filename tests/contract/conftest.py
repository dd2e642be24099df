"""The engines that the suite runs on: a new one is one more line here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from ..servers.postgres import PostgresNode
from ..servers.rabbitmq import RabbitNode
from .distributed import DistributedEngine, Servers
from .embedded import InsideEngine, SocketEngine
from .engine import EngineUnderTest, Peer

ENGINES: Final[dict[str, Callable[[Path], EngineUnderTest]]] = {"embedded": InsideEngine, "embedded-socket": SocketEngine}
DISTRIBUTED: Final = "distributed"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """RabbitMQ and PostgreSQL, started with the first test that needs them."""
    if missing := RabbitNode.missing() or PostgresNode.missing():
        pytest.skip(missing)
    made = Servers(tmp_path_factory.mktemp("servers"))
    yield made
    made.stop()


@pytest.fixture(params=[*ENGINES, DISTRIBUTED])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EngineUnderTest]:
    """A running engine on fresh data."""
    made = DistributedEngine(request.getfixturevalue("servers")) if request.param == DISTRIBUTED else ENGINES[request.param](tmp_path)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def peer(engine: EngineUnderTest) -> Peer:
    """A connected peer."""
    return await engine.connect()
