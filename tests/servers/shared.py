"""One server of a kind for a whole run of tests: who needs it first starts it, everybody gets a place of their own in it.

A server dies with the thread that started it, and a worker of pytest-xdist may end long before the others. So a process of its own
keeps the server: `python -m tests.servers.shared KIND FOLDER RUN`. It ends, and its server with it, when the process RUN has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from .postgres import PostgresNode
from .rabbitmq import Host, RabbitNode

_ROOT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 150.0
_LOOK: Final = 0.05
_BATCH: Final = 12
_VHOSTS: Final = """
[begin ok = rabbit_vhost:add(V, <<"tests">>),
  ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, <<"tests">>) end
  || N <- lists:seq({first}, {last}), V <- [<<"test-", (integer_to_binary(N))/binary>>]].
"""


class Vhost(NamedTuple):
    """A virtual host of the shared RabbitMQ, empty when it is given out."""

    node: RabbitNode
    name: str

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"{self.node.url}{self.name}"

    def control(self, *command: str) -> str:
        """Return what rabbitmqctl answers; it sees the virtual hosts of others too."""
        return self.node.control(*command)


class Database(NamedTuple):
    """A database of the shared PostgreSQL, empty when it is given out."""

    url: str


def vhost(folder: Path, run: int) -> Vhost:
    """Return a new virtual host; `folder` is the same for all processes of a run, `run` is the process that the server ends with."""
    with _held(folder / "rabbitmq.lock"):
        node = RabbitNode(folder / "rabbitmq", host=_host(_told(RabbitNode, folder / "rabbitmq", run)))
        counter = folder / "rabbitmq.vhosts"
        used = int(counter.read_text()) if counter.exists() else 0
        if used % _BATCH == 0:  # one command for many: rabbitmqctl takes seconds to start
            node.control("eval", _VHOSTS.format(first=used, last=used + _BATCH - 1))
        counter.write_text(str(used + 1))
    return Vhost(node, f"test-{used}")


def database(folder: Path, run: int) -> Database:
    """Return a new database; see `vhost`."""
    with _held(folder / "postgres.lock"):
        server = json.loads(_told(PostgresNode, folder / "postgres", run))["url"]
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'create database "{name}"')  # pyright: ignore[reportArgumentType] - our own name
    return Database(f"{server.rpartition('/')[0]}/{name}")


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _told(kind: type[RabbitNode | PostgresNode], folder: Path, run: int) -> str:
    """Return what the keeper of a server said of it, after starting the keeper if there is none."""
    said = folder.with_suffix(".json")
    if said.exists():
        return said.read_text()
    log = folder.with_suffix(".log")
    with log.open("ab") as errors:
        command = [sys.executable, "-m", "tests.servers.shared", kind.__name__, str(folder), str(run)]
        keeper = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True)
    deadline = time.monotonic() + _PATIENCE
    while not said.exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            keeper.kill()
            raise RuntimeError(f"the shared {kind.__name__} did not start: {log.read_text()}")
        time.sleep(_LOOK)
    keeper.returncode = 0  # it is not ours to wait for: it ends with the run
    return said.read_text()


def _host(said: str) -> Host:
    fields = json.loads(said)
    return Host(fields["node"], *fields["ports"])


def _keep(kind: str, folder: Path, run: int) -> None:
    """Run a server until the process `run` has ended."""
    lives = os.pidfd_open(run)
    node = PostgresNode(folder, "max_connections = 300") if kind == PostgresNode.__name__ else RabbitNode(folder)
    node.start()
    try:
        if isinstance(node, RabbitNode):
            said = {"node": node.host.node, "ports": [node.host.port, node.host.mapper_port, node.host.peer_port]}
        else:
            said = {"url": node.url}
        half = folder.with_suffix(".half")
        half.write_text(json.dumps(said))
        half.rename(folder.with_suffix(".json"))
        select.select([lives], [], [])
    finally:
        node.kill() if isinstance(node, RabbitNode) else node.stop()  # nobody reads what RabbitMQ would write down


if __name__ == "__main__":
    _keep(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
