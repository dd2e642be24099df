"""`chappe move`: a file that nobody serves is refused at once, on either side."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from chappe import App, Command
from chappe.cli import cli
from chappe.engines.file.server import Engine
from chappe.engines.file.serving import serve
from chappe.errors import BrokerUnavailable
from chappe.settings import Settings
from tests.servers.shared import Database


class Waiting(Command, queue="waiting"):
    n: int = 0


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def fill(path: Path) -> None:
    app = App("filler", settings=Settings(broker=url(path)))
    app.send([Waiting(n=n) for n in range(3)])
    app.close()


@contextmanager
def served(path: Path) -> Iterator[None]:
    """Run an engine for a file in a thread."""
    ready, over = threading.Event(), threading.Event()

    async def run() -> None:
        engine = Engine(path)
        serving = asyncio.create_task(serve(path, ready.set, engine=engine))
        await asyncio.to_thread(over.wait, 60)
        for connection in list(engine.connections):
            connection.abort()
        serving.cancel()
        await asyncio.wait([serving])

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def move(source: Path, target: Path) -> None:
    CliRunner().invoke(cli, ["--broker", url(source), "move", "--to", url(target)], catch_exceptions=False)


def test_without_an_engine_for_the_old_file_nothing_is_moved(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    fill(old)
    with served(new), pytest.raises(BrokerUnavailable, match=r"no engine runs for .*old\.db.*start it with .*engine") as refused:
        move(old, new)
    assert refused.value.exit_code == 69


def test_without_an_engine_for_the_new_file_nothing_is_moved(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    fill(old)
    with served(old), pytest.raises(BrokerUnavailable, match=r"no engine runs for .*new\.db"):
        move(old, new)
    assert not new.exists()


def test_between_two_engines_everything_is_moved(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    fill(old)
    with served(old), served(new):
        done = CliRunner().invoke(cli, ["--broker", url(old), "move", "--to", url(new), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert '"ready": 3' in done.stdout


def test_from_a_file_to_postgresql_and_back_everything_is_moved(tmp_path: Path, postgres: Database) -> None:
    old = tmp_path / "old.db"
    fill(old)
    with served(old):
        for source, target in ((url(old), postgres.url), (postgres.url, url(old))):
            done = CliRunner().invoke(cli, ["--broker", source, "move", "--to", target, "--json"], catch_exceptions=False)
            assert [(row["queue"], row["ready"]) for row in json.loads(done.stdout)] == [("waiting", 3)]
