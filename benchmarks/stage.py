"""A folder with Chappe's own processes in it, as a user would start them, and a connection to ask the engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal as signals
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from tests.servers.postgres import PostgresNode
from tests.servers.rabbitmq import RabbitNode

from benchmarks.tally import VARIABLE, Tally
from chappe.connection import Setting, connect
from chappe.engines.contract.broker import Broker, Depth
from chappe.engines.contract.store import Store
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.store import store_of
from chappe.errors import BrokerError
from chappe.settings import Settings

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
PATIENCE = 100.0
LOOK = 0.005


class NotMeasured(Exception):
    """A system cannot be measured here, and why."""


async def until(look: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        await asyncio.sleep(LOOK)


class Program:
    """A process of the bench or of a system, which ends with the measurement."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.pid = process.pid

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def end(self, number: int = signals.SIGTERM, seconds: float = 10.0) -> None:
        """End it, by force when it takes too long."""
        self.signal(number)
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            print(f"process {self.pid} did not end within {seconds:g} s and was killed: {self.log}", file=sys.stderr, flush=True)
            self.signal(signals.SIGKILL)
            await self.process.wait()

    async def line(self) -> Any:
        """Read the next JSON line that it prints."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
        if not line:
            raise RuntimeError(f"a program of the bench ended: {self.log.read_text()[-2000:]}")
        return json.loads(line)

    def go(self) -> None:
        """Let a program that said that it is ready begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")


async def all_at_once(programs: Sequence[Program]) -> list[Any]:
    """Let programs begin when all of them are ready; gives what each told, after all have ended."""
    for program in programs:
        await program.line()
    for program in programs:
        program.go()
    found = [await program.line() for program in programs]
    for program in programs:
        await program.process.wait()
    return found


class Folder:
    """Where one measurement happens: its files, its environment, its processes."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.tally = Tally(path / "tally")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHAPPE_") and name not in ("PORT", "LOG_LEVEL")}
        self.environment = {**kept, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", VARIABLE: str(self.tally.folder)}
        self._programs: list[Program] = []

    async def start(self, *command: str, **environment: str) -> Program:
        """Start a process of which the bench reads stdout; stderr goes to a file of its own."""
        log = self.path / f"{len(self._programs)}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self.path,
                env={**self.environment, **environment},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=1 << 24,
            )
        program = Program(process, log)
        self._programs.append(program)
        return program

    async def close(self) -> None:
        """End all processes, the last started first."""
        for program in reversed(self._programs):
            if program.process.returncode is None:
                await program.end()


class Stage(Folder):
    """A folder in which Chappe runs; `far` says that messages wait in servers."""

    broker: Broker
    store: Store

    def __init__(self, path: Path, urls: Mapping[str, str] | None = None) -> None:
        super().__init__(path)
        self.far = urls is not None
        self.environment |= {"CHAPPE_APP": "benchmarks.application:app", "CHAPPE_LOG_LEVEL": "info"}
        if urls is None:
            self.environment["CHAPPE_BROKER"] = f"sqlite:///{path}/chappe.db"
            broker = FileBroker(path / "chappe.db", may_own_file=False, deadline=PATIENCE)
            self.broker, self.store, self._leave = broker, store_of(broker), broker.close
        else:
            self.environment |= {**urls, "BENCH_NOTES": "1", "CHAPPE_STATE_DIR": str(path / "state")}
            settings = Settings(broker=urls["CHAPPE_BROKER"], store=urls.get("CHAPPE_STORE"), deadline=PATIENCE)
            connection = connect(settings, Setting(settings), {})
            self.broker, self.store, self._leave = connection.broker, connection.store, connection.close

    async def chappe(self, *arguments: str) -> Program:
        """Start a verb of Chappe."""
        return await self.start(sys.executable, "-m", "chappe", *arguments)

    async def python(self, module: str, *arguments: str) -> Program:
        """Start a program of the bench."""
        return await self.start(sys.executable, "-m", module, *arguments)

    async def engine(self) -> Program:
        """Start the engine and wait until it answers."""
        program = await self.chappe("engine")
        await self.store.overview()
        return program

    @contextlib.asynccontextmanager
    async def workers(self, count: int, queue: str, *, slots: int = 16, until_served: bool = True) -> AsyncGenerator[list[Program]]:
        """Run worker processes that all wait for messages of a queue."""
        programs = [await self.chappe("worker", "-Q", queue, "-c", str(slots)) for _ in range(count)]
        try:
            if until_served:
                await self.until_served(queue, count)
            yield programs
        finally:
            for program in programs:
                await program.end()

    async def until_served(self, queue: str, count: int) -> None:
        """Wait until so many workers serve a queue."""
        deadline = time.monotonic() + PATIENCE
        while sum(queue in client.info.get("queues", ()) for client in (await self.store.overview()).clients) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} workers of {queue} did not come up")
            await asyncio.sleep(LOOK)

    async def depth(self, queue: str) -> Depth:
        """Ask how many messages wait; a queue that nobody declared yet has none."""
        try:
            return await self.broker.depth(queue)
        except BrokerError:
            return Depth()

    async def left(self, queue: str) -> int:
        """Ask how many messages are not done."""
        depth = await self.depth(queue)
        return depth.ready + depth.running

    async def until_left(self, queue: str, count: int, look: float = LOOK) -> None:
        """Wait until no more than so many messages are not done."""
        deadline = time.monotonic() + PATIENCE
        while await self.left(queue) > count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{queue} was not drained")
            await asyncio.sleep(look)

    async def send(self, how: str, **sizes: int) -> Any:
        """Have a process of its own send; gives what it measured."""
        return (await self.send_by(1, how, **sizes))[0]

    async def send_by(self, senders: int, how: str, **sizes: int) -> list[Any]:
        """Have several processes send at once, from the moment at which all are connected."""
        return await all_at_once([await self.python("benchmarks.sender", how, json.dumps(sizes)) for _ in range(senders)])

    async def close(self) -> None:
        await self._leave()
        await super().close()


class Session:
    """One call of the bench: a folder for everything, and what is measured in it is removed at its end."""

    def __init__(self, folder: Path, *, broker: str = "file") -> None:
        self.far = broker != "file"
        self._broker = broker
        self._folder = folder
        self._count = self._databases = 0
        self._lasting = contextlib.ExitStack()
        self._begun: dict[str, Any] = {}

    def keep(self, name: str, begin: Callable[[Path], contextlib.AbstractContextManager[T]]) -> T:
        """Return what is begun once in a folder of its own and lives until the session ends, like a peer's server."""
        if name not in self._begun:
            self._begun[name] = self._lasting.enter_context(begin(self._folder / name))
        return self._begun[name]

    def rabbit(self) -> RabbitNode:
        """Return this session's RabbitMQ. Raises `NotMeasured` where none can be started."""
        if reason := RabbitNode.missing():
            raise NotMeasured(reason)
        return self.keep("rabbitmq", RabbitNode)

    def postgres(self) -> PostgresNode:
        """Return this session's PostgreSQL. Raises `NotMeasured` where none can be started."""
        if reason := PostgresNode.missing():
            raise NotMeasured(reason)
        return self.keep("postgres", PostgresNode)

    async def aclose(self) -> None:
        """End what was kept."""
        self._lasting.close()

    @contextlib.asynccontextmanager
    async def stage(self, *, name: str | None = None, engine: bool = True) -> AsyncGenerator[Stage]:
        """Return a fresh folder with an engine, or with a virtual host and a database; a named one is kept until the session ends."""
        urls = self._fresh_servers() if self.far else None
        async with self._kept(name, lambda path: Stage(path, urls)) as stage:
            if engine and not self.far:
                await stage.engine()
            yield stage

    def fresh_database(self) -> str:
        """Return the URL of a database in which nothing is."""
        self._databases += 1
        postgres, name = self.postgres(), f"bench{self._databases}"
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return f"{postgres.url.removesuffix('chappe')}{name}"

    def _fresh_servers(self) -> dict[str, str]:
        """Return what to set for a database, and a virtual host, in which nothing is, on the servers of this session."""
        if self._broker == "postgres":
            return {"CHAPPE_BROKER": self.fresh_database()}
        rabbit, database, name = self.rabbit(), self.fresh_database(), f"bench{self._count}"
        rabbit.control("add_vhost", name)
        rabbit.control("set_permissions", "--vhost", name, "guest", ".*", ".*", ".*")
        return {"CHAPPE_BROKER": f"{rabbit.url}{name}", "CHAPPE_STORE": database}

    @contextlib.asynccontextmanager
    async def folder(self) -> AsyncGenerator[Folder]:
        """Return a fresh folder for another system."""
        async with self._kept(None, Folder) as folder:
            yield folder

    @contextlib.asynccontextmanager
    async def _kept(self, name: str | None, kind: Callable[[Path], Any]) -> AsyncGenerator[Any]:
        self._count += 1
        path = self._folder / (name or str(self._count))
        folder = kind(path)
        try:
            yield folder
        finally:
            await folder.close()
            if name is None:
                shutil.rmtree(path)
