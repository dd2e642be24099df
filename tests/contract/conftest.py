"""The engines that the suite runs on: a new one is one more line here (row M10)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import psycopg
import pytest

from ..servers import shared
from ..servers.postgres import PostgresNode
from ..servers.rabbitmq import RabbitNode
from ..servers.shared import Database, Vhost
from .distributed import DistributedEngine, OwnServers, SharedServers
from .engine import EngineUnderTest, Peer
from .file import InsideEngine, SocketEngine
from .postgres import PostgresEngine

ENGINES: Final[dict[str, Callable[[Path], EngineUnderTest]]] = {"file": InsideEngine, "file-socket": SocketEngine}
DISTRIBUTED: Final = "distributed"
POSTGRES: Final = "postgres"
_RESTARTS: Final = (
    "file",
    "file-socket",
    POSTGRES,
    pytest.param(DISTRIBUTED, marks=pytest.mark.proof),
)  # its servers take seconds to start
_DISCONNECTS: Final = ("file", "file-socket", POSTGRES, DISTRIBUTED)
_OTHERS: Final = ("file", POSTGRES, DISTRIBUTED)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the engines of a test: the one in a process of its own where a process or a connection dies only."""
    if "engine" not in metafunc.fixturenames:
        return
    restarts, disconnects = (metafunc.definition.get_closest_marker(name) for name in ("restarts", "disconnects"))
    chosen = _RESTARTS if restarts else _DISCONNECTS if disconnects else _OTHERS
    if restarts and restarts.kwargs.get("moves_time"):
        chosen = [name for name in chosen if name != "file-socket"]  # the clock of another process cannot be moved
    metafunc.parametrize("engine", chosen, indirect=True)


@pytest.fixture(scope="module")
def shared_engine_servers(rabbit: Vhost, postgres: Database) -> SharedServers:
    """Places in the servers of the run."""
    return SharedServers(rabbit, postgres)


@pytest.fixture(scope="session")
def own_engine_servers(rabbit_node: RabbitNode, postgres_node: PostgresNode) -> OwnServers:
    """Servers that may be killed."""
    return OwnServers(rabbit_node, postgres_node)


@pytest.fixture(scope="module")
def alone(shared_servers: tuple[Path, int]) -> Database:
    """A database of the shared server for PostgreSQL by itself."""
    return shared.database(*shared_servers)


@pytest.fixture(scope="session")
def alone_node(postgres_node: PostgresNode) -> tuple[str, PostgresNode]:
    """The same in a server that may be killed."""
    with psycopg.connect(postgres_node.url, autocommit=True) as connection:
        connection.execute("create database alone")
    return f"{postgres_node.url.rpartition('/')[0]}/alone", postgres_node


@pytest.fixture
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EngineUnderTest]:
    """A running engine on fresh data."""
    killed = request.node.get_closest_marker("restarts") is not None
    if request.param == POSTGRES and killed:
        made: EngineUnderTest = PostgresEngine(*request.getfixturevalue("alone_node"))
    elif request.param == POSTGRES:
        made = PostgresEngine(request.getfixturevalue("alone").url)
    elif request.param == DISTRIBUTED:
        made = DistributedEngine(request.getfixturevalue("own_engine_servers" if killed else "shared_engine_servers"))
    else:
        made = ENGINES[request.param](tmp_path)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def peer(engine: EngineUnderTest) -> Peer:
    """A connected peer."""
    return await engine.connect()
