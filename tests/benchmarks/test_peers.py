"""The peers and the limit, in tiny sizes: real workers, a real RabbitMQ, and rows beside those of Chappe."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import psutil
import pytest
from benchmarks.drain import Sample, slope, watched
from benchmarks.peers import measure
from benchmarks.peers.catalogue import CELERY, HUEY, PROMISES, SENDING, WORKING, Peer
from benchmarks.results import Row
from benchmarks.scale import SCALES
from benchmarks.stage import Folder, NotMeasured, Session, until
from benchmarks.table import show
from benchmarks.works import (
    ASEND,
    ASEND_P50,
    ASEND_P99,
    DISK_SYNC,
    DRAIN_ONE,
    DRAIN_TWO,
    EIGHT_PROCESSES,
    EIGHT_TASKS,
    EIGHT_THREADS,
    SEND,
    SEND_HUNDREDS,
    SEND_P50,
    SEND_P99,
    TOGETHER,
    WORKER_CPU,
    WORKS,
    Work,
)

from tests.servers.rabbitmq import RabbitNode

from .test_bench import ROOT, bench, row_of

pytestmark = pytest.mark.proof

SENDS = {SEND, EIGHT_THREADS, EIGHT_PROCESSES}
WORKING_AT = {DRAIN_ONE, DRAIN_TWO, WORKER_CPU, TOGETHER, SEND_P50, SEND_P99}
LIMIT = {
    DRAIN_ONE, DRAIN_TWO, WORKER_CPU, SEND, ASEND, EIGHT_TASKS, SEND_HUNDREDS, DISK_SYNC, SEND_P50, SEND_P99, ASEND_P50, ASEND_P99,
}  # fmt: skip

needs_peers = pytest.mark.skipif(not measure.SCRIPTS.exists(), reason=f"{measure.SCRIPTS.parent} is missing: `make peers`")
needs_rabbitmq = pytest.mark.skipif(RabbitNode.missing() is not None, reason=str(RabbitNode.missing()))


def measured(tmp_path: Path, *systems: str) -> dict[str, set[str]]:
    """Return which works the bench measured of each system, after a look at all figures and at what still runs."""
    output = tmp_path / "results.json"
    done = bench(output, "--scale", "tiny", "--runs", "1", "--systems", ",".join(systems), timeout=280, TMPDIR=str(tmp_path))
    assert "not measured" not in done.stdout, done.stdout
    assert not [path.name for path in tmp_path.iterdir() if path != output]
    assert not running_below(tmp_path)
    rows: list[Row] = json.loads(output.read_text())
    assert all(row["median"] > 0 and len(row["runs"]) == 1 for row in rows), rows
    assert len(systems) == 1 or all(PROMISES[system] in done.stdout for system in systems)
    return {system: {row["work"] for row in rows if row["system"] == system} for system in systems}


def running_below(folder: Path) -> list[psutil.Process]:
    """Return the processes that were started in a folder, which may be gone."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(str(folder)):
                found.append(process)
    return found


def works_of(peer: Peer) -> set[str]:
    """Return what must be measured of a peer."""
    nothing: set[Work] = set()
    return names((SENDS if peer in SENDING else nothing) | (WORKING_AT if peer in WORKING else nothing))


def names(works: set[Work]) -> set[str]:
    return {work.name for work in works}


def test_the_limit_is_measured_at_every_work_that_it_can_do(tmp_path: Path) -> None:
    assert measured(tmp_path, "limit") == {"limit": names(LIMIT)}


@needs_peers
def test_huey_is_measured_over_sqlite(tmp_path: Path) -> None:
    huey = [peer for peer in WORKING if not peer.over]
    assert measured(tmp_path, *(peer.system for peer in huey)) == {peer.system: works_of(peer) for peer in huey}


@needs_peers
@needs_rabbitmq
@pytest.mark.timeout(300)
def test_dramatiq_and_celery_are_measured_over_a_rabbitmq_that_is_gone_afterwards(tmp_path: Path) -> None:
    peers = {peer.system: peer for peer in (*WORKING, *SENDING) if peer.over == "rabbitmq"}
    assert measured(tmp_path, *peers) == {system: works_of(peer) for system, peer in peers.items()}


async def reason_of(peer: Peer, tmp_path: Path) -> str:
    """Return why a peer was not measured at draining."""
    async with contextlib.aclosing(Session(tmp_path)) as session:
        with pytest.raises(NotMeasured) as reason:
            async for figure in measure.drain(peer, session, SCALES["tiny"]):
                pytest.fail(f"was measured: {figure}")
    return str(reason.value)


async def test_peers_that_are_not_installed_are_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SCRIPTS", tmp_path / "nowhere" / "bin")
    assert f"{tmp_path}/nowhere is missing" in await reason_of(HUEY, tmp_path)


@needs_peers
async def test_without_rabbitmq_its_peers_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.rabbitmq.SERVER", tmp_path / "nowhere")
    assert "RabbitMQ is not installed" in await reason_of(CELERY, tmp_path)


@needs_peers
async def test_a_peer_whose_worker_ends_is_not_measured_and_says_what_the_worker_said(tmp_path: Path) -> None:
    worker = ("python", "-c", "raise SystemExit('no broker, no work')")
    assert "no broker, no work" in await reason_of(HUEY._replace(one=(worker,)), tmp_path)


@needs_peers
async def test_a_peer_that_loses_what_was_sent_is_not_measured(tmp_path: Path) -> None:
    forgetful = tmp_path / "benchmarks" / "peers" / "forgetful.py"
    forgetful.parent.mkdir(parents=True)
    forgetful.write_text("def send(): ...\ndef waiting(): return 3\ndef close(): ...\n")
    for package in (ROOT / "benchmarks").rglob("*.py"):
        copy = tmp_path / package.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(package.read_bytes())
    peer = HUEY._replace(application="forgetful", environment={"PYTHONPATH": str(tmp_path)})
    assert "3 messages wait where 500 were sent" in await reason_of(peer, tmp_path / "session")


async def test_the_watch_begins_when_all_processes_take_part(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "folder")
    at_once = "import time; from benchmarks import tally; tally.note(6_000); time.sleep(60)"
    later = "import time; from benchmarks import tally; time.sleep(6); tally.note(1_000); time.sleep(2); tally.note(3_000); time.sleep(60)"
    try:
        first = await folder.start(sys.executable, "-c", at_once)
        await until(lambda: folder.tally.count() == 6_000, "the first process")
        second = await folder.start(sys.executable, "-c", later)
        found = await watched(folder.tally, (first, second), 10_000, 2)
    finally:
        await folder.close()
    assert 600 < found.rate <= 3_000 / 1.5  # with the 6 s before the second one it would be 500


def test_neither_the_start_nor_the_end_of_a_drain_counts() -> None:
    samples = [Sample(0, 0, 0.0), Sample(10, 150, 1.0), Sample(11, 550, 1.1), Sample(12, 950, 1.2), Sample(50, 1_000, 9.0)]
    rate, cpu = slope(samples, 1_000)
    assert rate == pytest.approx(400)
    assert cpu == pytest.approx(250)


def test_a_system_that_was_not_measured_is_shown_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    show([row_of(WORKS[0].name, 1.0)], {}, SCALES["tiny"], {"celery": "RabbitMQ is not installed"})
    assert "not measured: celery: RabbitMQ is not installed" in capsys.readouterr().out


def test_at_most_once_is_said_beside_the_figures_of_huey(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row_of(DRAIN_ONE.name, 90_000), row_of(DRAIN_ONE.name, 9_000, "huey")]
    show(rows, {}, SCALES["tiny"], {})
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " huey " in line)
    assert "at most once" in line


@needs_peers
@needs_rabbitmq
def test_on_rabbitmq_and_postgresql_chappe_is_held_against_pika(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    done = bench(output, "--broker", "rabbitmq", "--scale", "tiny", "--runs", "1", "--systems", "chappe,pika", "send")
    rows: list[Row] = json.loads(output.read_text())
    assert {row["system"] for row in rows if row["work"] == SEND.name} == {"chappe", "pika"}
    assert "≥ 1 × pika" in done.stdout
    assert not running_below(tmp_path)
