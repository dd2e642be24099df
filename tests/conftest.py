"""Gives servers to tests that ask for them: places in those that a run shares, or nodes that a test may kill and freeze."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Final, TypeVar

import hypothesis
import psutil
import pytest

from .servers import shared
from .servers.postgres import PostgresNode
from .servers.rabbitmq import RabbitNode

# The same examples in each run, however long one takes: a gate that is green stays green.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("gate")

N = TypeVar("N", RabbitNode, PostgresNode)

_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 6 * 1024**3
_PLACE: Final = re.compile(r"t(\d+)-")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the folders of the gate in memory, where there is much: whether it is right does not depend on how fast a disk is.

    What asks whether something survives on a disk, in the proof, asks the disk.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL), (signal.SIGQUIT, signal.SIG_DFL)):
        signal.signal(number, handler)  # who runs the tests in the background may have them ignored, and programs under test inherit that
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        # Of a project's file that a test changes twice within a second the old bytecode would be run; what is there already is used.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    is_gate = "not proof" in (config.option.markexpr or "") and "TMPDIR" not in os.environ and config.option.basetemp is None
    if is_gate and os.access(_MEMORY, os.W_OK):
        _remove_what_killed_runs_left()
        if min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available) < _ROOM:
            return
        place = tempfile.tempdir = tempfile.mkdtemp(prefix=f"t{os.getpid()}-", dir=_MEMORY)  # short, for sockets are in it
        os.environ["TMPDIR"] = place  # for the workers of pytest-xdist too
        config.option.basetemp = f"{place}/b"
        # When all is over: multiprocessing keeps something there until this process ends.
        Finalize(None, shutil.rmtree, (place,), {"ignore_errors": True}, exitpriority=-200)


def _remove_what_killed_runs_left() -> None:
    """Give back the memory of runs that could not do so themselves: nobody else would until the machine restarts."""
    for folder in _MEMORY.iterdir():
        if (found := _PLACE.match(folder.name)) and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(folder, ignore_errors=True)


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
