"""Gives servers to tests that ask for them: places in those that a run shares, or nodes that a test may kill and freeze."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from .servers import shared
from .servers.postgres import PostgresNode
from .servers.rabbitmq import RabbitNode

# The same examples in each run, however long one takes: a gate that is green stays green.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("gate")

N = TypeVar("N", RabbitNode, PostgresNode)


def skip_without(*kinds: type[RabbitNode | PostgresNode]) -> None:
    """Skip what needs servers that cannot be started here, and say what is missing."""
    for kind in kinds:
        if missing := kind.missing():
            pytest.skip(missing)


def _running(kind: type[N], folder: Path) -> Iterator[N]:
    skip_without(kind)
    with kind(folder) as node:
        yield node


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction] - by pytest
    """Keep what processes of a host share out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of what the run shares, and the process that the run is."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        return folder.parent / "servers", os.getppid()
    return folder / "servers", os.getpid()


@pytest.fixture(scope="module")
def rabbit(shared_servers: tuple[Path, int]) -> shared.Vhost:
    """A virtual host of the module's own in the RabbitMQ of the run."""
    skip_without(RabbitNode)
    return shared.vhost(*shared_servers)


@pytest.fixture(scope="module")
def postgres(shared_servers: tuple[Path, int]) -> shared.Database:
    """A database of the module's own in the PostgreSQL of the run."""
    skip_without(PostgresNode)
    return shared.database(*shared_servers)


@pytest.fixture(scope="session")
def rabbit_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A node that a test may kill, freeze and reconfigure; it leaves the node running as it was."""
    yield from _running(RabbitNode, tmp_path_factory.mktemp("rabbit"))


@pytest.fixture(scope="session")
def postgres_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresNode]:
    """A server that a test may kill and freeze; it leaves the server running."""
    yield from _running(PostgresNode, tmp_path_factory.mktemp("postgres"))
