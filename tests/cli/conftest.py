"""`chappe` as a real process in a folder with a small application."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import commands

APPLICATION = """
import datetime
from typing import Literal, Self
from chappe import App, Command, Event, Reject, Retry, replace

app = App("shop")


class Order(Command, queue="orders", retry=Retry(2, delay=0.0, jitter=0.0)):
    customer: str
    count: int = 1
    when: datetime.date | None = None
    tags: frozenset[str] = frozenset()


class Refresh(Command, queue="refresh", key="{house}"):
    house: int
    what: frozenset[Literal["rates", "texts"]]

    def merge(self, newer: Self) -> Self:
        return replace(self, what=self.what | newer.what)


class Add(Command, inline=True):
    a: int
    b: float = 0.0


class Sold(Event):
    customer: str


@app.handles(Order)
async def order(command: Order):
    if command.customer == "Eve":
        raise Reject("we do not sell to Eve")
    return {"sold to": command.customer}


@app.handles(Refresh)
async def refresh(command: Refresh): ...


@app.handles(Add)
async def add(command: Add):
    return command.a + command.b


@app.on(Sold)
async def sold(event: Sold): ...
"""


class Ended:
    """What a process left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


Chappe = Callable[..., Ended]


def environment(**more: str) -> dict[str, str]:
    """Return an environment without settings of the developer's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") and k not in ("PORT", "LOG_LEVEL")}
    return {**kept, "COLUMNS": "200", **more}


@pytest.fixture
def chappe(tmp_path: Path) -> Chappe:
    """Run `chappe …` beside the application."""
    (tmp_path / "shop.py").write_text(APPLICATION)

    def run(*arguments: str, stdin: str = "", code: int | None = 0, env: dict[str, str] | None = None) -> Ended:
        done = commands.run(tmp_path, environment(**({"CHAPPE_APP": "shop:app"} if env is None else env)), arguments, stdin.encode())
        ended = Ended(done.code, done.out.decode(), done.err.decode())
        if code is not None:
            assert ended.code == code, f"exit code {ended.code}\n{ended.out}\n{ended.err}"
        return ended

    return run


def python_m_chappe(folder: Path, *arguments: str) -> Ended:
    """Run `python -m chappe …` as a shell does."""
    command = [sys.executable, "-m", "chappe", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def worked(tmp_path: Path, chappe: Chappe) -> Callable[[], None]:
    """Handle everything that is ready, in this process, with the same file and application."""

    def work() -> None:
        script = (
            "import asyncio, pathlib\n"
            "from chappe.settings import Settings\n"
            "from chappe.engines.file.server import Engine\n"
            "from chappe.worker.running_table import RunningTable\n"
            "from chappe.worker.worker import Worker\n"
            "from shop import app\n"
            "async def main():\n"
            "    engine = Engine(pathlib.Path('chappe.db'), grace=0.0)\n"
            "    app.configure(Settings(), engine=engine)\n"
            "    connection = await app.connection()\n"
            "    async with connection.broker.consume(app.registry.consumed_queues(), prefetch=20) as consumer:\n"
            "        worker = Worker(app.bus, consumer, merging=app.merger, ports=await app.ports(), concurrency=1,\n"
            "                        table=RunningTable(pathlib.Path('slots'), 1))\n"
            "        running = asyncio.ensure_future(worker.run())\n"
            "        while any(q.ready or q.running for q in (await connection.store.overview()).queues):\n"
            "            await asyncio.sleep(0.005)\n"
            "        await worker.stop(1.0)\n"
            "        await running\n"
            "    await app.aclose()\n"
            "    engine.close()\n"
            "asyncio.run(main())\n"
        )
        done = commands.program(tmp_path, environment(), script)
        assert done.code == 0, done.err.decode()

    return work
