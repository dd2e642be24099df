"""RabbitMQ and PostgreSQL, a worker of ours, and foreign programs, which are real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from chappe import App
from chappe.engines.contract.letters import Letter
from chappe.settings import Settings

from ..servers.rabbitmq import RabbitNode
from ..servers.shared import Database, Vhost
from ..waiting import PATIENCE, until
from .application import LINES, Office, application
from .clients import CLIENTS, PROGRAMS, Client

ROOT = Path(__file__).parents[2]


def exchange(name: str, kind: str, *, durable: bool = True, auto_delete: bool = False, **arguments: Any) -> dict[str, Any]:
    """Return a declaration of an exchange for a foreign program."""
    return {"name": name, "kind": kind, "durable": durable, "auto_delete": auto_delete, "arguments": _dashed(arguments)}


def queue(name: str, *bindings: tuple[str, str], durable: bool = True, auto_delete: bool = False, **arguments: Any) -> dict[str, Any]:
    """Return a declaration of a queue for a foreign program; it is a classic one unless the arguments say otherwise."""
    return {"name": name, "bindings": bindings, "durable": durable, "auto_delete": auto_delete, "arguments": _dashed(arguments)}


def _dashed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in arguments.items()}


def message(exchange: str, key: str, letter: Mapping[str, Any] | str, **properties: Any) -> dict[str, Any]:
    """Return a message for a foreign program: fields that it writes as JSON in its own way, or a body as it is."""
    content = {"body": letter} if isinstance(letter, str) else {"letter": letter}
    return {"exchange": exchange, "key": key, "properties": properties, **content}


def declarations(client: Client) -> dict[str, Any]:
    """Return what a program declares of its own; one that can give no arguments does with what it has."""
    name = client.name
    if not client.declares:
        return {"queues": [queue(f"{name}.box", durable=False)]}
    return {
        "exchanges": [
            exchange(f"{name}.topic", "topic"),
            exchange(f"{name}.direct", "direct", alternate_exchange="amq.fanout"),
            exchange(f"{name}.fanout", "fanout", durable=False),
        ],
        "queues": [queue(f"{name}.box", durable=False, x_max_length=1000, x_overflow="reject-publish")],
    }


class Station:
    """Both servers, foreign programs, a worker of ours, and our application in this process."""

    def __init__(self, folder: Path, rabbit: Vhost | RabbitNode, postgres: Database) -> None:
        self.folder = folder
        self.rabbit = rabbit
        self.settings = Settings(broker=rabbit.url, store=postgres.url)
        self.missing = {name: client.missing() for name, client in CLIENTS.items()}
        self.here = [client for client in CLIENTS.values() if self.missing[client.name] is None]
        self.app: App
        self.offices: dict[str, Office] = {}
        self.worker: subprocess.Popen[bytes] | None = None
        self.started: list[subprocess.Popen[str]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHAPPE_")}
        self.environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "CHAPPE_APP": "tests.foreign.application:app",
            "CHAPPE_DEPLOY_WINDOW": "0",
            "CHAPPE_BROKER": rabbit.url,
            "CHAPPE_STORE": postgres.url,
            "FOREIGN_CLIENTS": " ".join(client.name for client in self.here),
        }

    def open(self) -> None:
        """Have the programs declare what is theirs, then start what is ours."""
        for program in [self.start(client, **declarations(client)) for client in self.here]:
            finished(program)
        self.work()
        self.app, self.offices = application(self.here, self.settings)

    # --- foreign programs

    def start(
        self,
        client: Client,
        *,
        exchanges: Sequence[Any] = (),
        queues: Sequence[Any] = (),
        publish: Sequence[Any] = (),
        consume: tuple[str, int] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a foreign program that declares, then publishes, then consumes so many messages from a queue."""
        asked = None if consume is None else {"queue": consume[0], "count": consume[1]}
        told = {"url": self.rabbit.url, "exchanges": exchanges, "queues": queues, "publish": publish, "consume": asked}
        program = subprocess.Popen(
            client.command,
            cwd=PROGRAMS,
            env={**os.environ, **client.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(program)
        assert program.stdin is not None
        json.dump(told, program.stdin)
        program.stdin.close()
        program.stdin = None
        return program

    def run(self, client: Client, **told: Any) -> list[dict[str, Any]]:
        """Run a foreign program, and give what it consumed."""
        return finished(self.start(client, **told))

    def consumes(self, program: subprocess.Popen[str], queue: str) -> None:
        """Wait until a foreign program consumes a queue."""

        def look() -> bool:
            assert program.poll() is None, finished(program)
            try:
                return self._ask(lambda channel: channel.queue_declare(queue, passive=True)).method.consumer_count > 0
            except ChannelClosedByBroker:  # it does not exist yet
                time.sleep(0.05)
                return False

        until(look, f'a consumer of "{queue}"')

    def delete(self, queue: str) -> None:
        """Delete a queue, as its owner may at any time."""
        self._ask(lambda channel: channel.queue_delete(queue))

    def _ask(self, ask: Callable[[Any], Any]) -> Any:
        with closing(pika.BlockingConnection(pika.URLParameters(self.rabbit.url))) as connection:
            return ask(connection.channel())

    # --- ours

    def work(self, *options: str) -> None:
        """Start a worker, in place of the one that runs."""
        self.rest()
        before = self.errors().count(" serves ")
        with (self.folder / "stderr").open("ab") as errors:
            command = [sys.executable, "-m", "chappe", "worker", *options]
            self.worker = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=errors, stderr=errors)
        worker = self.worker
        until(lambda: self.errors().count(" serves ") > before or worker.poll() is not None, "a worker that serves")
        assert worker.poll() is None, self.errors()

    def rest(self) -> None:
        """End the worker."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.send_signal(signal.SIGTERM)
            worker.wait(PATIENCE)

    def dead(self, queue: str) -> list[Letter]:
        """Return the dead letters of a queue."""

        async def look() -> list[Letter]:
            return list(await (await self.app.connection()).store.letters(queue))

        return self.app.wait_for(look())

    def left(self, queue: str) -> int:
        """Return how many messages a queue has that are not done nor dead."""

        async def look() -> int:
            depth = await (await self.app.connection()).broker.depth(queue)
            return depth.ready + depth.running + depth.delayed

        return self.app.wait_for(look())

    def lines(self, text: str) -> list[dict[str, Any]]:
        """Return what handlers wrote of letters with a text, in order."""
        path = self.folder / LINES
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in found if line["text"] == text]

    def came(self, text: str, count: int = 1, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait for so many lines of letters with a text."""
        until(lambda: len(self.lines(text)) >= count, f"{count} of {text!r}; the worker said: {self.errors()[-2000:]}", seconds)
        return self.lines(text)

    def errors(self) -> str:
        """Read what the workers said."""
        path = self.folder / "stderr"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """Leave nothing running."""
        for program in self.started:
            if program.poll() is None:
                program.kill()
            with program:  # closes its pipes
                pass
        self.rest()
        if self.offices:
            self.app.close()


def finished(program: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Wait until a foreign program ends in order, and give what it consumed."""
    printed, said = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0, f"{program.args} ended with {program.returncode}: {said}"
    return [json.loads(line) for line in printed.splitlines()]


def _opened(station: Station) -> Iterator[Station]:
    try:
        station.open()
        yield station
    finally:
        station.close()


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, rabbit: Vhost, postgres: Database) -> Iterator[Station]:
    """Everything, once for all tests of the module; a foreign program that is missing is left out."""
    yield from _opened(Station(tmp_path_factory.mktemp("foreign"), rabbit, postgres))


@pytest.fixture
def own_station(tmp_path: Path, rabbit_node: RabbitNode, postgres: Database) -> Iterator[Station]:
    """Everything, with a RabbitMQ that may be killed."""
    yield from _opened(Station(tmp_path, rabbit_node, postgres))


def chosen(station: Station, name: str) -> Client:
    """Return a foreign program, or skip the test and say why it is missing."""
    if reason := station.missing[name]:
        pytest.skip(reason)
    return CLIENTS[name]


def _names(clients: Iterable[Client]) -> list[str]:
    return [client.name for client in clients]


@pytest.fixture(params=_names(CLIENTS.values()))
def client(request: pytest.FixtureRequest, station: Station) -> Client:
    """Each foreign program in turn."""
    return chosen(station, request.param)


@pytest.fixture
def with_pika(station: Station) -> Client:
    """The one whose kind does not matter."""
    return chosen(station, "pika")
