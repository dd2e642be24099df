"""`chappe run` on PostgreSQL alone: a real server, real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import skip_without
from ..servers import shared
from ..servers.postgres import PostgresNode
from ..waiting import until
from .conftest import Mill

POOL = "[pools.mill]\nprocesses = {processes}\nconcurrency = {slots}\n"
NO_MORE = ("--no-gateway", "--no-scheduler")


@pytest.fixture
def far(mill: Mill, shared_servers: tuple[Path, int]) -> Iterator[Mill]:
    """A mill whose messages wait in a database of its own."""
    skip_without(PostgresNode)
    mill.environment["CHAPPE_BROKER"] = shared.database(*shared_servers).url
    yield mill
    if mill.process is not None and mill.process.poll() is None:
        mill.end()


def test_an_operator_sends_looks_and_asks_for_a_check_before_anything_runs(far: Mill) -> None:
    far.chappe("send", "work", '{"name": "waits"}')
    assert far.queues()["work"]["ready"] == 1
    assert "waits" in far.chappe("inspect", "work").stdout
    assert re.search(r"PostgreSQL \d+.* at postgresql://127\.0\.0\.1", far.chappe("status").stderr)
    rows = {row["check"]: row for row in json.loads(far.chappe("doctor", "--json").stdout)}
    assert {check for check, row in rows.items() if row["verdict"] == "wrong"} == set()
    assert {"servers", "postgresql durability", "postgresql sessions"} <= rows.keys()
    assert far.chappe("purge", "-f", "work").stdout == "1\n"
    assert not list(far.folder.glob("*.db*")), "there is no file, and no engine"
    assert "only a file has an engine" in far.chappe("engine", code=78).stderr


def test_what_was_sent_by_the_command_line_is_handled_by_all_that_chappe_run_starts(far: Mill) -> None:
    far.configure(POOL.format(processes=1, slots=10))
    far.chappe("send", "work", '{"name": "a"}')
    far.run()
    assert set(far.rows()) == {"supervisor", "mill-1", "scheduler", "gateway"}
    assert until(lambda: far.names("end")) == ["a"]
    assert [row["info"]["pool"] for row in json.loads(far.chappe("status", "--json").stdout)[0]["clients"] if row["role"] == "worker"] == [
        "mill"
    ]
    done = subprocess.run(
        ("curl", "-s", "-X", "POST", "-H", "content-type: application/json", "-H", "prefer: wait=60", "-d", '{"name": "b"}',
         f"{far.address()}/commands/work"), capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["state"] == "done"
    far.end()
    assert not list(far.folder.glob("state/*.running/*.running")), "workers that end in order leave no table"


def test_what_a_killed_worker_ran_runs_at_another_host_at_once(far: Mill) -> None:
    """Two supervisors with folders of state of their own are two hosts to each other."""
    far.configure(POOL.format(processes=1, slots=2))
    other = far.start("worker", "--name", "other", "-c", "2")
    until(lambda: "other serves" in far.errors())
    far.environment["CHAPPE_STATE_DIR"] = str(far.folder / "elsewhere")
    far.start("worker", "--name", "killed", "-c", "2")
    until(lambda: "killed serves" in far.errors())
    far.send(*(f"Work(name='w{n}', seconds=60)" for n in range(8)))
    until(lambda: len(far.lines("start")) == 4)
    killed = next(line for line in far.lines("start") if line.pid != other.pid)
    os.kill(killed.pid, signal.SIGKILL)
    at = time.time()
    far.release()
    until(lambda: len(set(far.names("end"))) == 8)
    again = [line for line in far.lines("start") if line.at > at and line.name == killed.name]
    assert [(line.pid, line.attempt) for line in again] == [(other.pid, 1)]
    other.send_signal(signal.SIGTERM)
    assert other.wait(60) == 0


def test_a_message_that_kills_its_worker_three_times_is_one_dead_letter_and_its_neighbours_are_unharmed(far: Mill) -> None:
    far.configure(POOL.format(processes=2, slots=10))
    far.run(*NO_MORE)
    far.send("Deadly()", *(f"Work(name='n{n}')" for n in range(20)))
    (letter,) = until(far.letters)
    assert (letter["type"], letter["reason"]) == ("deadly", "worker_lost")
    assert far.names("start").count("deadly") >= 3
    until(lambda: set(far.names("end")) == {f"n{n}" for n in range(20)})
    assert "mill-suspects" in far.errors(), "it ran where nothing else does"


def test_workers_go_on_after_the_server_was_killed_and_nothing_confirmed_is_lost(mill: Mill, postgres_node: PostgresNode) -> None:
    mill.environment["CHAPPE_BROKER"] = postgres_node.url
    mill.configure(POOL.format(processes=1, slots=10))
    mill.run(*NO_MORE)
    mill.send(*(f"Work(name='a{n}', seconds=60)" for n in range(20)))
    until(lambda: len(mill.names("start")) >= 10)
    postgres_node.kill()
    assert "127.0.0.1" in mill.chappe("queues", code=69, CHAPPE_DEADLINE="0.5").stderr
    postgres_node.start()
    mill.release()
    mill.send("Work(name='later')")
    until(lambda: {"later", *(f"a{n}" for n in range(20))} <= set(mill.names("end")))
    mill.end()
