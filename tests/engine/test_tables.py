"""The tables of started messages as the engine reads them."""

import os
import struct
from pathlib import Path

from chappe.engine import tables
from chappe.worker.slots import StartedTable


def test_what_a_worker_writes_is_what_the_engine_reads(tmp_path: Path) -> None:
    table = StartedTable(tables.folder_of(tmp_path / "chappe.db"), 3)
    table.start(1, 7)
    table.start(2, 2**40)
    table.beat(12.5)
    assert tables.started_in(table.path) == {7, 2**40}
    assert tables.last_beat(table.path) == 12.5
    assert table.running(1) == 7
    table.close()


def test_a_table_that_is_missing_or_short_says_nothing(tmp_path: Path) -> None:
    assert tables.started_in(tmp_path / "missing") is None
    assert tables.last_beat(tmp_path / "missing") == 0.0
    short = tmp_path / "short.slots"
    short.write_bytes(struct.pack("<dQ", 1.0, 5) + b"rest")
    assert tables.started_in(short) == {5}
    short.write_bytes(b"abc")
    assert tables.started_in(short) == frozenset()
    assert tables.last_beat(short) == 0.0


def test_only_tables_of_dead_workers_are_orphans(tmp_path: Path) -> None:
    folder = tables.folder_of(tmp_path / "chappe.db")
    alive = StartedTable(folder, 1)
    dead = folder / f"{os.getpid()}-aa.slots"  # its number is in use again, as always in a container
    dead.touch()
    assert tables.orphans(tmp_path / "chappe.db") == [dead]
    assert alive.path.exists()
    alive.close()
    assert not tables.is_orphan(alive.path), "it is gone"
