"""An engine does not own a file where that would be unsafe, and says why."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from chappe.engines.file import preflight
from chappe.engines.file.database import open_database
from chappe.errors import CorruptStorage, UnsafeStorage

# Begins a write with our SQLite, then lets Python's own copy open and close the same file; says whether the lock is still there.
LOCKED = """
import pathlib, sqlite3, subprocess, sys
import apsw
from chappe.engines.file import preflight
from chappe.errors import UnsafeStorage
path = pathlib.Path(sys.argv[1])
db = apsw.Connection(str(path))
db.execute("begin immediate")
if sys.argv[2] == "guarded":
    preflight.guard(path)
for opened in (lambda: sqlite3.connect(path).execute("select * from t").close(), lambda: open(path).close(), lambda: open(f"{path}-shm").close()):
    try:
        opened()
        print("opened")
    except UnsafeStorage as error:
        print("refused:", error)
other = "import apsw, sys; db = apsw.Connection(sys.argv[1]); db.execute('begin immediate')"
done = subprocess.run([sys.executable, "-c", other, str(path)], capture_output=True, text=True)
print("locked" if "BusyError" in done.stderr else "NOT LOCKED")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "chappe.db"
    db = open_database(path)
    db.execute("create table t (x)")
    db.close()
    return path


def told(path: Path, how: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", LOCKED, str(path), how], capture_output=True, text=True, timeout=200, check=True)
    return done.stdout.splitlines()


def test_a_second_copy_of_sqlite_would_drop_the_lock(path: Path) -> None:
    """Why `guard` is there: if this fails, it is needed no more."""
    assert told(path, "unguarded") == ["opened", "opened", "opened", "NOT LOCKED"]


def test_guarded_the_file_is_opened_once_and_the_lock_holds(path: Path) -> None:
    *refused, lock = told(path, "guarded")
    assert [line.startswith("refused: ") and "opening it a second time" in line for line in refused] == [True] * 3
    assert lock == "locked"


def test_a_file_that_something_else_in_the_process_has_open_is_refused(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("select * from t").fetchall()
    with pytest.raises(UnsafeStorage, match="is open in this process already, by code other than the engine"):
        preflight.refuse(path)
    other.close()
    preflight.refuse(path)


def test_a_folder_that_is_gone_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(UnsafeStorage, match="does not exist; mount its disk"):
        preflight.refuse(tmp_path / "gone" / "chappe.db")
    assert not (tmp_path / "gone").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere; the disk that is read-only is tested in tests/faults")
def test_a_folder_that_cannot_be_written_is_refused(path: Path) -> None:
    path.parent.chmod(0o500)
    with pytest.raises(UnsafeStorage, match="cannot be written by this user"):
        preflight.refuse(path)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chappe.db").mkdir()
    with pytest.raises(UnsafeStorage, match="is not a file"):
        preflight.refuse(tmp_path / "chappe.db")


def test_a_new_file_in_an_empty_folder_is_welcome(tmp_path: Path) -> None:
    preflight.refuse(tmp_path / "chappe.db")
    assert list(tmp_path.iterdir()) == []


# --- a log that has lost commits


def killed(folder: Path, commits: int = 8) -> Path:
    """Return a file as `kill -9` leaves it: one commit after the other in its log."""
    living = folder / "living" / "chappe.db"
    db = open_database(living)
    for n in range(commits):
        db.execute("insert or replace into schedule values (?, ?)", (f"s{n}" * 200, float(n)))
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{living}{suffix}", folder / f"chappe.db{suffix}")
    db.close()
    return folder / "chappe.db"


def frames(path: Path) -> int:
    return (Path(f"{path}-wal").stat().st_size - 32) // 4120


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 16
    path.write_bytes(data)


def test_a_killed_engines_file_is_welcome(tmp_path: Path) -> None:
    preflight.refuse(killed(tmp_path))


@pytest.mark.parametrize("frame", ["first", "middle", "last", "header"])
@pytest.mark.parametrize("index", [True, False], ids=["with-shm", "without-shm"])
def test_a_flipped_bit_in_the_log_is_refused_and_nothing_is_changed(tmp_path: Path, frame: str, index: bool) -> None:
    path = killed(tmp_path)
    number = {"first": 0, "middle": frames(path) // 2, "last": frames(path) - 1, "header": 0}[frame]
    flip(Path(f"{path}-wal"), 10 if frame == "header" else 32 + number * 4120 + 2000)
    if not index:
        Path(f"{path}-shm").unlink()
    before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    if frame == "last" and not index:
        preflight.refuse(path)  # nothing tells it from a commit that a power failure tore
    else:
        with pytest.raises(CorruptStorage, match="has lost commits that had been durable"):
            preflight.refuse(path)
    assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before


def test_a_log_that_was_cut_off_is_refused_where_the_index_knows_of_more(tmp_path: Path) -> None:
    path = killed(tmp_path)
    os.truncate(f"{path}-wal", 32 + 5 * 4120)
    with pytest.raises(CorruptStorage, match=f"{frames_before(path) - 5} frames of the log are missing"):
        preflight.refuse(path)


def frames_before(path: Path) -> int:
    from chappe.engines.file.writeahead import index_of  # noqa: PLC0415

    index = index_of(path)
    assert index is not None
    return index.durable


def test_a_log_that_was_deleted_is_refused(tmp_path: Path) -> None:
    path = killed(tmp_path)
    Path(f"{path}-wal").unlink()
    with pytest.raises(CorruptStorage, match="frames of the log are missing"):
        preflight.refuse(path)


def test_a_log_that_is_in_the_database_already_may_be_deleted(tmp_path: Path) -> None:
    living = tmp_path / "living" / "chappe.db"
    db = open_database(living)
    db.execute("insert into schedule values ('a', 1.0)")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    for suffix in ("", "-shm"):
        shutil.copy(f"{living}{suffix}", tmp_path / f"chappe.db{suffix}")
    db.close()
    preflight.refuse(tmp_path / "chappe.db")


def test_the_torn_last_commit_of_a_power_failure_is_no_damage(tmp_path: Path) -> None:
    """The frames of the last commit are there in part, and nobody was told of it: SQLite leaves it out, and so it is right."""
    path = killed(tmp_path)
    Path(f"{path}-shm").unlink()
    log = Path(f"{path}-wal")
    data = bytearray(log.read_bytes())
    data[-4120 * 2 : -4120] = bytes(4120)  # the last but one frame did not reach the disk, the last one did
    log.write_bytes(data)
    preflight.refuse(path)


def test_a_new_log_torn_in_its_first_bytes_over_one_that_is_written_back_is_no_damage(tmp_path: Path) -> None:
    """The power failed while SQLite began the log anew: what lies behind the torn header is old, and in the database."""
    path = killed(tmp_path)
    db = apsw.Connection(str(path))
    db.execute("select count(*) from sqlite_schema").fetchall()
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", tmp_path / f"torn.db{suffix}")
    db.close()
    assert Path(f"{tmp_path / 'torn.db'}-wal").stat().st_size > 4 * 4120
    flip(Path(f"{tmp_path / 'torn.db'}-wal"), 20)
    preflight.refuse(tmp_path / "torn.db")


def test_a_new_log_torn_in_its_first_bytes_over_one_that_began_to_overwrite_another_is_no_damage(tmp_path: Path) -> None:
    """The power failed twice: in the first commit of one log, of which some frames reached the disk, and in the first bytes of the next."""
    path = killed(tmp_path)
    log, begun = Path(f"{path}-wal"), tmp_path / "begun.db"
    old = log.read_bytes()
    db = apsw.Connection(str(path))
    db.execute("select count(*) from sqlite_schema").fetchall()
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    shutil.copy(path, begun)
    db.execute("create table large (a)")
    db.execute("insert into large values (zeroblob(400000))")
    new = log.read_bytes()
    db.close()
    torn = bytearray(old)
    torn[-3 * 4120 :] = new[len(old) - 3 * 4120 : len(old)]  # where the old log had its last commit
    assert not any(int.from_bytes(torn[at + 4 : at + 8], "big") for at in range(len(old) - 3 * 4120, len(old), 4120)), "no commit"
    Path(f"{begun}-wal").write_bytes(torn)
    flip(Path(f"{begun}-wal"), 20)
    preflight.refuse(begun)


def test_files_that_come_and_go_while_it_looks_are_no_hazard(path: Path) -> None:
    log, ended = Path(f"{path}-wal"), threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            log.touch()
            log.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(3000):
            preflight.refuse_folder(path)
    finally:
        ended.set()
        other.join()
