"""Says which tests run alone on the machine, or only beside another of their kind (`make test`); and gives servers to those that ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from .servers.postgres import PostgresNode
from .servers.rabbitmq import RabbitNode

HERE = Path(__file__).parent
N = TypeVar("N", RabbitNode, PostgresNode)
ALONE = (  # loads
    "benchmarks/test_bench.py", "benchmarks/test_meters.py", "examples/channel_manager/test_demo.py", "faults/test_disks.py",
    "faults/test_orphans.py", "faults/test_recovery.py", "faults/test_rounds.py", "faults/test_storm.py", "servers/test_cluster.py",
)  # fmt: skip
PAIRED = (  # real processes with bounds of seconds, which wait most of the time
    "examples/channel_manager/test_channel_server.py", "examples/channel_manager/test_rows.py", "faults/test_frozen.py",
    "faults/test_full_disk.py", "faults/test_time.py", "processes", "servers/test_postgres.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs alone, or with one of its kind, by where it is; a test that measures says itself that it runs alone."""
    for mark, names in (("alone", ALONE), ("paired", PAIRED)):
        places = [HERE / name for name in names]
        assert all(place.exists() for place in places), "a place that was renamed must not lose its mark"
        for item in items:
            if item.get_closest_marker("alone") is None and any(item.path.is_relative_to(place) for place in places):
                item.add_marker(mark)


def running(kind: type[N], folder: Path) -> Iterator[N]:
    """Run a server in this folder, or skip what needs it and say what is missing."""
    if missing := kind.missing():
        pytest.skip(missing)
    with kind(folder) as node:
        yield node


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A node for the tests of a file; a test that kills it starts it again."""
    yield from running(RabbitNode, tmp_path_factory.mktemp("rabbit"))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresNode]:
    """A server for the tests of a file."""
    yield from running(PostgresNode, tmp_path_factory.mktemp("postgres"))
