"""Frozen processes: a worker is fenced and replaced and its late word is refused, an engine is found and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.planted import environment
from tests.processes.conftest import Mill
from tests.waiting import until

pytestmark = pytest.mark.proof

FENCED = 35.0  # the engine's FENCE and the quarter of it after which it looks; twice, because one that stood still itself begins anew
REPLACED = 35.0
CONFIRMED_AGAIN = 15.0
BUSY = 14.0  # seconds that the handler takes: longer than it takes to be fenced

SENDER = """
import time
from mill import *
from chappe.errors import BrokerError
with open("confirmed", "a") as log:
    while True:
        try:
            app.send(Tick())
        except BrokerError:
            continue
        log.write(f"{time.time():.6f}\\n")
        log.flush()
        time.sleep(0.02)
"""


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    mill = Mill(tmp_path)
    yield mill
    mill.close()


def start(mill: Mill, *arguments: str, plant: str | None = None) -> subprocess.Popen[bytes]:
    """Start a process of Chappe without a supervisor, which would replace what is frozen before it can come back."""
    with (mill.folder / "stderr").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "chappe", *arguments],
            cwd=mill.folder,
            env={**mill.environment, **(environment(plant) if plant else {})},
            stderr=errors,
        )
    mill.started.append(process)
    return process


def late_word(mill: Mill, plant: str | None = None) -> tuple[int, int]:
    """Freeze a worker until its message runs elsewhere, let it end late, and give what is running and done then."""
    start(mill, "engine", plant=plant)
    workers = [start(mill, "worker", "-c", "2", "-Q", "work", plant=plant) for _ in range(2)]
    until(lambda: mill.errors().count("serves work") == len(workers), "the workers to serve")
    mill.send(f"Work(name='a', seconds={BUSY})")
    (first,) = until(lambda: mill.lines("start"))
    frozen = psutil.Process(first.pid)
    frozen.suspend()
    until(lambda: len(mill.lines("start")) == 2, "the message to run elsewhere", FENCED)
    took = mill.lines("start")[1].at - first.at
    assert mill.lines("start")[1].pid != first.pid
    frozen.resume()
    until(lambda: any(line.pid == first.pid for line in mill.lines("end")), "the late worker to end what it ran")
    assert took <= FENCED
    until(lambda: "late settlement was refused" in mill.errors() or mill.queues()["work"]["done"] > 0, "its word to be heard")
    counts = mill.queues()["work"]
    return counts["running"], counts["done"]


def test_a_frozen_worker_is_fenced_and_its_late_word_is_refused(mill: Mill) -> None:
    assert late_word(mill) == (1, 0), "the message is with the other worker, which has not ended it"
    mill.release()
    until(lambda: mill.queues()["work"]["done"] == 1)
    assert len(mill.lines("start")) == 2


def test_without_a_fence_the_late_word_would_end_what_somebody_else_runs(mill: Mill) -> None:
    assert late_word(mill, "fencing-off") == (0, 1)


def test_a_frozen_worker_is_replaced_and_its_messages_run_elsewhere(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 2\nconcurrency = 2\n")
    mill.run("--no-gateway", "--no-scheduler")
    mill.send("Work(name='a', seconds=60)")
    (first,) = until(lambda: mill.lines("start"))
    (name,) = (row.name for row in mill.rows().values() if row.pid == first.pid)
    os.kill(first.pid, signal.SIGSTOP)
    frozen_at = time.time()
    until(lambda: len(mill.lines("start")) == 2, "the message to run elsewhere", FENCED)
    until(lambda: mill.rows()[name].pid not in (0, first.pid), "the frozen worker to be replaced", REPLACED)
    assert time.time() - frozen_at <= REPLACED
    assert not psutil.pid_exists(first.pid)
    mill.release()
    until(lambda: mill.names("end") == ["a"], "the message to end once")
    mill.end()
    assert mill.names("end") == ["a"]


def test_a_frozen_engine_stops_senders_and_workers_for_seconds_only(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 10\n")
    mill.run("--no-gateway", "--no-scheduler")
    sender = mill.script(SENDER)
    took: dict[str, float] = {}
    until(lambda: len(confirmed(mill)) > 10 and len(mill.lines("tick")) > 10)
    engine = mill.pid("engine")
    os.kill(engine, signal.SIGSTOP)
    frozen_at = time.time()
    until(lambda: any(at > frozen_at + 0.5 for at in confirmed(mill)), "a send to be confirmed again", CONFIRMED_AGAIN + 4)
    took["sender"] = next(at for at in confirmed(mill) if at > frozen_at + 0.5) - frozen_at
    until(lambda: any(line.at > frozen_at + 0.5 for line in mill.lines("tick")), "a message to be handled again", CONFIRMED_AGAIN + 4)
    took["worker"] = next(line.at for line in mill.lines("tick") if line.at > frozen_at + 0.5) - frozen_at
    print(took)
    assert max(took.values()) <= CONFIRMED_AGAIN, took
    assert not psutil.pid_exists(engine)
    sender.kill()
    sender.wait()
    total = len(confirmed(mill))
    until(lambda: len(mill.lines("tick")) >= total, "everything confirmed to be handled", 30)
    if sender.stdout:
        sender.stdout.close()
    mill.end()


def confirmed(mill: Mill) -> list[float]:
    """Return the times at which the sender was told that its message is stored."""
    path = mill.folder / "confirmed"
    return [float(line) for line in path.read_text().splitlines() if len(line) > 10] if path.exists() else []
