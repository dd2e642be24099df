"""The power is cut at hundreds of places of a long workload: what was answered is there, what was not is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

from . import planted
from .gate import only
from .power import workload
from .power.cuts import Model, Report, Scene, cut, places
from .power.disk import Change, Disk, Image, Link, Sync, SyncFolder, Truncate, Unlink, Write
from .power.run import MEMORY, Options, run
from .power.tape import Tape
from .power.vfs import recording

POINTS = 200
SEED = int(os.environ.get("CHAPPE_SEED", "1"))


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    folder = Path(tempfile.mkdtemp(prefix="chappe-power-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


def test_nothing_answered_is_lost_and_nothing_is_half_there_wherever_the_power_is_cut() -> None:
    evidence = run(Options(points=POINTS, seed=SEED, tapes=1, rounds=160, ways=5))
    assert evidence["faults"] == []
    assert evidence["points"] == POINTS
    assert evidence["recoveries"] > 5 * POINTS
    assert evidence["checkpoints"] > 0
    assert {"synced", "all", "subset", "torn", "sectors", "garbled", "reversed", "prefix", "short", "again:"} <= set(evidence["ways"])


@pytest.mark.parametrize("name", only("published-a-commit-after-the-ack", planted.of("power")))
def test_a_planted_fault_is_seen(name: str) -> None:
    program = [sys.executable, "-m", "tests.faults.power", "--plant", name, "--points", "200", "--rounds", "50"]
    environment = {**os.environ, **planted.environment()}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["faults"]


def whole_opening(root: Path) -> Report:
    """Cut the power at every place of the very first start."""
    tape = workload.work(root, rounds=1, seed=1)
    at = [place for place in places(tape, ready=False) if place <= places(tape)[0]]
    assert len(at) > 20
    return cut(Scene(tape.events, Model(tape), root / "cut", workload.NAME, workload.Clock()), at, ways=5)


def test_a_file_whose_making_was_cut_short_is_made_again(root: Path) -> None:
    assert whole_opening(root).faults == []


def test_a_file_in_folders_that_chappe_made_is_found_again(root: Path) -> None:
    name = f"made/by/{workload.NAME}"
    tape = workload.work(root, rounds=3, seed=1, name=name)
    scene = Scene(tape.events, Model(tape), root / "cut", name, workload.Clock())
    assert cut(scene, places(tape)[-10:]).faults == []


def test_an_index_that_outlived_the_power_stops_nobody_from_starting(root: Path) -> None:
    tape = workload.work(root, rounds=100, seed=1)
    begun = [n + 1 for n, event in enumerate(tape.events) if isinstance(event, Write) and event.file > 1 and event.offset == 0]
    assert len(begun) > 5
    scene = Scene(tape.events, Model(tape), root / "cut", workload.NAME, workload.Clock())
    assert cut(scene, [place for n in begun for place in (n, n + 2)], index=True).faults == []


# --- a whole host, seen from outside


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def stack(*arguments: str) -> tuple[int, dict[str, Any]]:
    program = [sys.executable, "-m", "tests.faults.power.stack", "--publishes", "60", "--points", "150", *arguments]
    environment = {**os.environ, **planted.environment()}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.proof
@needs_strace
def test_every_order_that_a_real_gateway_took_is_there_wherever_the_power_is_cut() -> None:
    code, evidence = stack()
    assert (code, evidence["faults"], evidence["taken"]) == (0, [], 60)
    assert evidence["points"] >= 150


@pytest.mark.proof
@needs_strace
def test_an_answer_that_left_a_real_engine_before_its_commit_is_seen() -> None:
    code, evidence = stack("--plant", "answered-before-the-commit")
    assert code == 1
    assert "taken are not known" in evidence["faults"][0]


# --- the disk and its recorder


def images(disk: Disk) -> list[Image]:
    states = [changes for seed in range(10) for way, changes in disk.states(Random(seed)) if way != "garbled"]
    found = {tuple(sorted((path, bytes(data)) for path, data in disk.image(changes).items())) for changes in states}
    return [dict(image) for image in sorted(found)]


def after(*operations: Change | Sync | SyncFolder) -> Disk:
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    return disk


@pytest.mark.proof
def test_what_was_synced_is_there_in_every_state_of_the_disk() -> None:
    disk = after(Link("f", 1), Write(1, 0, b"first"), Sync(1), SyncFolder(""), Write(1, 5, b"second"))
    found = images(disk)
    assert all(image["f"].startswith(b"first") for image in found)
    assert {"f": b"first"} in found
    assert {"f": b"firstsecond"} in found


@pytest.mark.proof
def test_a_file_whose_name_was_not_synced_may_be_gone_with_all_that_was_synced_into_it() -> None:
    disk = after(Link("f", 1), Write(1, 0, b"data"), Sync(1))
    assert images(disk) == [{}, {"f": b"data"}]


@pytest.mark.proof
def test_a_file_is_not_found_below_a_folder_that_is_not_found() -> None:
    disk = after(Link("a", 0), Link("a/f", 1), Write(1, 0, b"data"), Sync(1), SyncFolder("a"))
    assert images(disk) == [{}, {"a/f": b"data"}]


@pytest.mark.proof
def test_a_removed_name_comes_back_with_its_old_file_unless_its_folder_was_synced() -> None:
    old = (Link("f", 1), Write(1, 0, b"old"), Sync(1), SyncFolder(""), Unlink("f"), Link("f", 2), Write(2, 0, b"new"), Sync(2))
    found = images(after(*old))
    assert {"f": b"old"} in found
    assert {"f": b"new"} in found
    assert {} in found
    assert images(after(*old, SyncFolder(""))) == [{"f": b"new"}]


@pytest.mark.proof
def test_writes_that_were_not_synced_reach_the_disk_in_any_order_and_in_pieces_of_sectors() -> None:
    disk = after(Link("f", 1), SyncFolder(""), Write(1, 100, b"a" * 1500), Write(1, 2000, b"b"), Truncate(1, 1800))
    found = {image["f"] for image in images(disk)}
    torn = [data for data in found if 0 < data.count(b"a") < 1500]
    assert torn, "torn"
    assert {data.find(b"a") for data in torn} <= {100, 512, 1024, 1536}, "torn at the borders of sectors"
    assert any(len(data) == 2001 and b"a" not in data for data in found), "a later write without an earlier one"
    assert any(len(data) == 2001 and b"a" in data for data in found), "the truncation lost"


@pytest.mark.proof
def test_what_is_written_past_sqlite_is_pending_until_its_writer_syncs_it(root: Path) -> None:
    path, tape = root / "f.db", Tape()
    with recording(tape, root, path) as recorder:
        db = apsw.Connection(str(path))
        db.execute("pragma journal_mode=wal; create table t (x); insert into t values (1)").fetchall()
        with open(f"{path}-wal", "r+b") as log:
            log.seek(0, os.SEEK_END)
            log.write(bytes(4096))
            log.flush()
            before = len(tape.events)
            os.fsync(log.fileno())
        grown, synced = tape.events[before:]
        assert type(grown).__name__ == "Grow"
        assert isinstance(synced, Sync)
        recorder.check()
        db.close()


@pytest.mark.proof
def test_a_change_that_was_not_recorded_is_noticed_at_the_end(root: Path) -> None:
    path = root / "f.db"
    with recording(Tape(), root, path) as recorder:
        db = apsw.Connection(str(path))
        db.execute("create table t (x)")
        with open(path, "r+b") as file:
            file.write(b"SQLite")
            recorder.check()
            file.seek(100)
            file.write(b"!")
        with pytest.raises(AssertionError, match="unseen"):
            recorder.check()
        db.close()
