"""The table of started messages."""

import mmap
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

from chappe.engines.file.running_tables import is_orphan
from chappe.worker.running_table import RunningTable


def tags(path: Path) -> list[int]:
    return [tag for tag, _, _ in struct.iter_unpack("<QII", path.read_bytes()[40:])]


def test_what_started_can_be_read_by_another_process_at_once(tmp_path: Path) -> None:
    table = RunningTable(tmp_path / "slots", 3)
    assert tags(table.path) == [0, 0, 0]
    table.begin(0, 11)
    table.begin(2, 2**63)
    assert tags(table.path) == [11, 0, 2**63]
    table.end(0)
    assert tags(table.path) == [0, 0, 2**63]
    table.close()


def test_a_table_that_is_closed_in_order_is_gone(tmp_path: Path) -> None:
    table = RunningTable(tmp_path / "slots", 1)
    table.close()
    assert list((tmp_path / "slots").iterdir()) == []


def test_the_file_is_for_this_user_only(tmp_path: Path) -> None:
    table = RunningTable(tmp_path / "slots", mmap.PAGESIZE)
    assert table.path.stat().st_mode & 0o777 == 0o600
    assert table.path.parent.stat().st_mode & 0o777 == 0o700
    table.close()


WORKER = """
import os, signal, sys
from pathlib import Path
from chappe.worker.running_table import RunningTable
table = RunningTable(Path(sys.argv[1]), 1)
if os.fork() == 0:
    print(os.getpid(), flush=True)
signal.pause()
"""


def test_a_killed_worker_leaves_a_table_that_is_an_orphans_though_its_child_lives(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        try:
            (table,) = tmp_path.glob("*.running")
            assert not is_orphan(table)
            worker.kill()
            worker.wait()
            assert is_orphan(table)
        finally:
            os.kill(child, signal.SIGKILL)
