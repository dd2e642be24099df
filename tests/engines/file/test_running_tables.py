"""The tables of started messages as the engine reads them."""

import os
from pathlib import Path

import pytest

from chappe.engines.file import running_tables
from chappe.worker.running_table import RunningTable


def table_of(*slots: tuple[int, int, int], blamed: int = 0) -> bytes:
    blame = (blamed, running_tables.BLOCKED, 1, 2.5, 0.5)
    return running_tables.HEADER.pack(1.0, *blame) + b"".join(running_tables.SLOT.pack(*slot) for slot in slots)


def told(path: Path) -> tuple[frozenset[int], tuple[int, ...], float | None, bool]:
    """Return what a table says: what had begun, what may have killed its worker, when that is tried again, and whether this is sure."""
    account = running_tables.read_table(path)
    assert account is not None
    return account.begun, account.death.deliveries, account.death.after, account.death.is_sure


def test_what_a_worker_writes_is_what_the_engine_reads(tmp_path: Path) -> None:
    table = RunningTable(running_tables.folder_of(tmp_path / "chappe.db"), 4)
    table.beat(12.5)
    for slot, tag in ((1, 7), (2, 2**40), (3, 2**63)):
        table.begin(slot, tag)
        table.step(slot, False)
    assert told(table.path) == ({7, 2**40, 2**63}, (7, 2**40, 2**63), None, False), "where nothing executes, it may have been any"
    table.step(1, True)
    table.in_thread(3, True)
    assert told(table.path) == ({7, 2**40, 2**63}, (7, 2**63), None, True)
    table.in_thread(3, False)
    assert told(table.path) == ({7, 2**40, 2**63}, (7,), None, True)
    table.blame(2**40, running_tables.KILL_AFTER, 1.5, is_last=True, after=9.0)
    assert told(table.path) == ({7, 2**40, 2**63}, (2**40,), 9.0, True)
    table.end(2)
    assert told(table.path) == ({7, 2**63}, (7,), None, True), "what was blamed has ended in the last moment"
    assert running_tables.last_beat(table.path) == 12.5
    assert table.running(1) == 7
    table.close()


def test_a_table_that_is_missing_or_short_says_nothing(tmp_path: Path) -> None:
    assert running_tables.read_table(tmp_path / "missing") is None
    assert running_tables.last_beat(tmp_path / "missing") == 0.0
    short = tmp_path / "short.running"
    short.write_bytes(table_of((5, 0, 0)) + b"rest")
    assert told(short) == ({5}, (5,), None, False)
    short.write_bytes(b"abc")
    assert told(short) == (frozenset(), (), None, True)
    assert running_tables.last_beat(short) == 0.0


def test_whether_anything_had_begun_is_told_by_a_descriptor_though_the_table_is_gone(tmp_path: Path) -> None:
    table = RunningTable(tmp_path, 2)
    handle = os.open(table.path, os.O_RDONLY)
    assert not running_tables.started_by(handle)
    table.begin(1, 7)
    table.path.unlink()
    assert running_tables.started_by(handle)
    os.close(handle)
    table.close()


def test_only_tables_of_dead_workers_are_orphans(tmp_path: Path) -> None:
    folder = running_tables.folder_of(tmp_path / "chappe.db")
    alive = RunningTable(folder, 1)
    dead = folder / f"{os.getpid()}-aa.running"  # its number is in use again, as always in a container
    dead.touch()
    assert running_tables.orphans(tmp_path / "chappe.db") == [dead]
    assert alive.path.exists()
    alive.close()
    assert not running_tables.is_orphan(alive.path), "it is gone"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a file of another user")
def test_a_table_of_another_user_is_not_believed(tmp_path: Path) -> None:
    folder = running_tables.folder_of(tmp_path / "chappe.db")
    folder.mkdir()
    planted = folder / "1-a.running"
    planted.write_bytes(table_of((5, 1, 0)))
    os.chown(planted, 65534, 65534)
    assert running_tables.read_table(planted) is None
    assert running_tables.last_beat(planted) == 0.0
    assert running_tables.orphans(tmp_path / "chappe.db") == []
