"""The tables of started messages as the engine reads them."""

import os
import struct
from pathlib import Path

import pytest

from chappe.engine import running_tables
from chappe.worker.running_table import RunningTable


def test_what_a_worker_writes_is_what_the_engine_reads(tmp_path: Path) -> None:
    table = RunningTable(running_tables.folder_of(tmp_path / "chappe.db"), 3)
    table.start(1, 7)
    table.start(2, 2**40)
    table.beat(12.5)
    assert running_tables.started_in(table.path) == {7, 2**40}
    assert running_tables.last_beat(table.path) == 12.5
    assert table.running(1) == 7
    table.close()


def test_a_table_that_is_missing_or_short_says_nothing(tmp_path: Path) -> None:
    assert running_tables.started_in(tmp_path / "missing") is None
    assert running_tables.last_beat(tmp_path / "missing") == 0.0
    short = tmp_path / "short.running"
    short.write_bytes(struct.pack("<dQ", 1.0, 5) + b"rest")
    assert running_tables.started_in(short) == {5}
    short.write_bytes(b"abc")
    assert running_tables.started_in(short) == frozenset()
    assert running_tables.last_beat(short) == 0.0


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
    planted.write_bytes(struct.pack("<dQ", 1.0, 5))
    os.chown(planted, 65534, 65534)
    assert running_tables.started_in(planted) is None
    assert running_tables.last_beat(planted) == 0.0
    assert running_tables.orphans(tmp_path / "chappe.db") == []
