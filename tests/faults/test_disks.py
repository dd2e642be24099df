"""Disks that fail or take their time, and files that must not be opened: nothing false is said, and the reason is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from ..processes.conftest import Mill
from ..waiting import until
from . import planted
from .disks.calls import Failure, meet, run
from .disks.senders import sending
from .disks.small import FrozenDisk, needs_root, needs_strace

SEED = int(os.environ.get("CHAPPE_SEED", "1"))
CASES = 18


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    """A folder with the application; whatever runs there is ended after the test."""
    mill = Mill(tmp_path)
    yield mill
    mill.close()


@contextmanager
def strace(mill: Mill, process: int, *faults: str) -> Iterator[None]:
    """Have calls of a process and all that it starts fail, or take longer, for the files of the database."""
    where = [word for suffix in ("", "-wal") for word in ("-P", f"{mill.folder}/chappe.db{suffix}")]
    said = mill.folder / "strace"
    with said.open("wb") as errors:
        tracer = subprocess.Popen(["strace", "-f", "-o", "/dev/null", *where, *faults, "-p", str(process)], stderr=errors)
    try:
        until(lambda: "attached" in said.read_text() or tracer.poll() is not None, "strace to be attached")
        assert tracer.poll() is None, said.read_text()
        yield
    finally:
        tracer.send_signal(signal.SIGTERM)
        tracer.wait(60)


# --- errors


@pytest.mark.proof
@needs_strace
def test_whichever_call_to_the_disk_fails_nothing_that_was_confirmed_is_missing(tmp_path: Path) -> None:
    evidence = run(CASES, SEED, tmp_path)
    assert evidence["faults"] == []
    assert evidence["confirmed"] > 100
    stopped = sum(count for how, count in evidence["ended with"].items() if how.endswith(": 74"))
    assert stopped >= CASES // 2, evidence["ended with"]


@pytest.mark.proof
@needs_strace
@pytest.mark.parametrize("name", planted.of("disks"))
def test_a_planted_fault_is_seen(name: str) -> None:
    program = [sys.executable, "-m", "tests.faults.disks", "--plant", name, "--cases", "6"]
    environment = {**os.environ, **planted.environment()}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["faults"]


@needs_strace
@pytest.mark.parametrize(
    "failure", [Failure("fdatasync", 1), Failure("pwrite64", 12), Failure("fdatasync", 5), Failure("pwrite64", 300, sticky=True)], ids=str
)
def test_the_engine_ends_with_74_when_a_write_or_sync_fails(tmp_path: Path, failure: Failure) -> None:
    assert meet(failure, tmp_path / "case").code == 74


@needs_strace
def test_the_engine_ends_with_74_when_the_disk_fails_while_the_file_is_opened(tmp_path: Path) -> None:
    assert meet(Failure("fdatasync", 2, made=False), tmp_path / "case").code == 74


@pytest.mark.proof
@needs_strace
def test_a_disk_that_fails_again_and_again_costs_restarts_and_nothing_else(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 10\n")
    mill.run("--no-gateway", "--no-scheduler")
    before = mill.rows()
    with sending(mill, "a", "b") as senders:
        with strace(mill, before["supervisor"].pid, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=60+"):
            os.kill(before["engine"].pid, signal.SIGKILL)  # strace sees what is started from now on
            until(lambda: mill.rows()["engine"].starts >= before["engine"].starts + 4, "the engine to have been restarted three times", 60)
        senders.stop()
        stored = senders.told("stored")
    assert mill.errors().count("the disk failed (disk I/O error); the engine stops, nothing was acknowledged falsely") >= 3
    assert "engine ended with 74" in mill.errors()
    assert len(stored) > 30
    until(lambda: set(stored) <= set(mill.names("end")), "everything confirmed to be handled")
    assert mill.rows()["mill-1"].starts == before["mill-1"].starts, "the worker outlived the engines"
    mill.end()


# --- slowness


@pytest.mark.proof
@needs_strace
def test_a_slow_disk_loses_no_delivery_and_fences_nobody(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 2\nconcurrency = 10\n")
    mill.run("--no-gateway", "--no-scheduler")
    before = mill.rows()
    with (
        sending(mill, "a") as senders,
        strace(mill, mill.pid("engine"), "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=200000"),
    ):
        until(lambda: len(senders.told("stored")) > 15, "messages to be stored on a slow disk", 60)
        senders.stop()
        stored = senders.told("stored")
        assert senders.outcomes() == {"stored"}, "a slow disk is no error to a sender"
        until(lambda: len(mill.names("end")) >= len(stored), "the messages to be handled", 60)
    assert sorted(mill.names("start")) == sorted(mill.names("end")) == sorted(stored), "each once"
    assert {name: row.starts for name, row in mill.rows().items()} == {name: row.starts for name, row in before.items()}
    assert "given to others" not in mill.errors()
    mill.end()


@pytest.mark.proof
@needs_root
def test_a_disk_that_stands_still_for_twelve_seconds_loses_no_delivery_and_fences_nobody(tmp_path: Path) -> None:
    """Longer than the silence after which a client is given up, which must not be counted while the engine itself waited."""
    disk = FrozenDisk(tmp_path / "disk")
    mill = Mill(tmp_path)
    mill.environment["CHAPPE_BROKER"] = f"sqlite:///{disk.path}/chappe.db"
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 10\n")

    def starts() -> dict[str, str]:
        return {line.split("\t")[0]: line.split("\t")[2] for line in (disk.path / "chappe.db.processes").read_text().splitlines()}

    try:
        mill.run("--no-gateway", "--no-scheduler")
        before = starts()
        mill.send(*(f"Work(name='w{n}', seconds=60)" for n in range(8)))
        until(lambda: len(mill.names("start")) == 8)
        with sending(mill, "late") as senders:
            with disk.frozen():
                began = time.monotonic()
                mill.release()
                until(lambda: time.monotonic() - began > 12, "the time to pass")
            until(lambda: senders.told("stored"), "the sender to be heard again")
            senders.stop()
            stored, unknown = senders.told("stored"), senders.told("Unconfirmed")
            assert senders.outcomes() <= {"stored", "Unconfirmed", "BrokerUnavailable"}
        until(lambda: all(queue["ready"] == queue["running"] == 0 for queue in mill.queues().values()), "everything to end")
        ends = mill.names("end")
        assert {f"w{n}" for n in range(8)} | set(stored) <= set(ends) <= {f"w{n}" for n in range(8)} | set(stored) | set(unknown)
        assert len(ends) == len(set(ends)) == len(mill.names("start")), "each once"
        assert starts() == before, "nothing was restarted"
        assert "given to others" not in mill.errors()
        mill.end()
    finally:
        mill.close()
        disk.close()


# --- what must not be opened


def engine(mill: Mill, code: int, *options: str) -> str:
    return mill.chappe(*options, "engine", code=code).stderr


def test_a_folder_that_is_gone_ends_with_78_and_is_not_made(mill: Mill) -> None:
    for verb in ("engine", "run"):
        said = mill.chappe("--broker", "sqlite:///gone/chappe.db", verb, code=78).stderr
        assert "the folder" in said and "does not exist; mount its disk, or make it with mkdir -p" in said
    assert not (mill.folder / "gone").exists()


@needs_root
def test_a_disk_that_is_read_only_ends_with_78(mill: Mill) -> None:
    disk = mill.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "none", str(disk)], check=True)
    try:
        for verb in ("engine", "run"):
            said = mill.chappe("--broker", "sqlite:///disk/chappe.db", verb, code=78).stderr
            assert f"{disk} cannot be written by this user" in said
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_second_chappe_run_ends_with_75_and_says_whose_the_file_is(mill: Mill) -> None:
    mill.run("--no-gateway", "--no-scheduler")
    said = mill.chappe("run", "--no-gateway", "--no-scheduler", code=75).stderr
    assert f"another chappe run is up for chappe.db: chappe.db.supervisor is owned by process {mill.pid('supervisor')}" in said
    mill.end()


def test_a_log_that_lost_commits_ends_with_78_and_recover_saves_what_is_whole(mill: Mill) -> None:
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Work(name='w{n}', seconds=60)" for n in range(20)))
    until(lambda: mill.names("start"))
    assert mill.process is not None
    mill.process.kill()
    mill.process.wait()
    mill.close()
    until(lambda: not mill.processes())
    log = mill.folder / "chappe.db-wal"
    data = bytearray(log.read_bytes())
    data[32 + 10 * 4120 + 600] ^= 8
    log.write_bytes(data)
    before = (mill.folder / "chappe.db").read_bytes()
    assert "has lost commits that had been durable" in engine(mill, 78)
    assert "engine cannot run with this configuration" in mill.chappe("run", "--no-gateway", "--no-scheduler", code=78).stderr
    assert ((mill.folder / "chappe.db").read_bytes(), log.read_bytes()) == (before, bytes(data))
    mill.chappe("recover", "--to", "saved.db", code=1)
    queues = json.loads(mill.chappe("--broker", "sqlite:///saved.db", "queues", "--json").stdout)
    assert {queue["name"]: queue["ready"] for queue in queues}["work"] == 20


def test_an_engine_whose_process_opens_the_file_twice_does_not_start(mill: Mill) -> None:
    """A `sitecustomize` of whoever watches the machine, in every Python process of it."""
    mill.chappe("send", "work", "name=a")
    site = mill.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sqlite3\nkept = sqlite3.connect({str(mill.folder / 'chappe.db')!r})\nkept.execute('select count(*) from ready').fetchall()\n"
    )
    mill.environment["PYTHONPATH"] = str(site)
    said = engine(mill, 78)
    assert "chappe.db is open in this process already, by code other than the engine" in said


def test_a_damaged_page_that_is_met_while_it_runs_ends_it_with_78_and_is_not_tried_again(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 1\n")
    mill.environment["CHAPPE_DEADLINE"] = "1"  # for which the worker waits for the engine that is gone
    mill.chappe("send", "work", "name=a")
    mill.send(*(f"Work(name='{n:04}' + 'x' * 2000)" for n in range(100)))
    db = apsw.Connection(str(mill.folder / "chappe.db"))
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    pages = [page for (page,) in db.execute("select pageno from dbstat where name = 'ready' and pagetype = 'leaf' order by path")]
    db.close()
    with (mill.folder / "chappe.db").open("rb+") as file:
        file.seek((pages[len(pages) // 2] - 1) * 4096)
        file.write(bytes(4096))
    mill.run("--no-gateway", "--no-scheduler")
    assert mill.process is not None
    assert mill.process.wait(60) == 78, "chappe run ends when its engine cannot go on"
    assert "chappe.db is damaged" in mill.errors() and "see chappe recover" in mill.errors()
    assert mill.errors().count("started engine") == 1
