"""`chappe recover`, and what `chappe doctor` says of a file that needs it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from ..waiting import until
from .conftest import Chappe, environment


@pytest.fixture
def orders(chappe: Chappe, tmp_path: Path) -> Path:
    """A file with ten orders."""
    chappe("send", "order", "customer=Ada")
    program = "from shop import *\napp.send([Order(customer=f'customer {n}') for n in range(9)])\napp.close()"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(), check=True, timeout=60)
    return tmp_path / "chappe.db"


def root_of(path: Path, table: str) -> int:
    db = apsw.Connection(str(path))
    try:
        return int(db.execute("select rootpage from sqlite_schema where name = ?", (table,)).fetchone()[0])
    finally:
        db.close()


def zero(path: Path, page: int) -> None:
    with path.open("rb+") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))


def waiting(chappe: Chappe, *options: str) -> int:
    queues = chappe(*options, "queues", "--json").json
    return next(queue["ready"] for queue in queues if queue["name"] == "orders")


def test_a_file_that_is_whole_is_saved_as_a_whole(chappe: Chappe, orders: Path) -> None:
    ended = chappe("recover")
    assert "ready" in ended.out and "10" in ended.out
    assert "no damage was found in the structure of the file" in ended.err
    assert waiting(chappe, "--broker", "sqlite:///chappe-recovered.db") == 10


def test_doctor_finds_the_damage_and_recover_saves_the_rest_and_says_what_to_do(chappe: Chappe, orders: Path) -> None:
    zero(orders, root_of(orders, "tracked"))
    before = orders.read_bytes()
    (file,) = [row for row in chappe("doctor", "--json", code=1).json if row["check"] == "file"]
    assert file["verdict"] == "wrong"
    assert "Restore a copy, or save what can be read: chappe recover" in file["text"]
    ended = chappe("recover", "--to", "new.db", code=1)
    assert orders.read_bytes() == before
    assert "damage: " in ended.err and "new.db is ready. To use it:" in ended.err
    told = [line.strip() for line in ended.err.splitlines() if line.startswith("  ")]
    assert subprocess.run(["bash", "-c", "\n".join(told)], cwd=orders.parent, check=False).returncode == 0
    assert (orders.parent / "damaged" / "chappe.db").read_bytes() == before
    assert waiting(chappe) == 10
    assert {row["check"]: row["verdict"] for row in chappe("doctor", "--json").json}["file"] == "ok"


def test_the_report_can_be_read_by_programs(chappe: Chappe, orders: Path) -> None:
    report = chappe("recover", "--json").json
    assert report["whole"] is True
    assert {part["table"]: part["read"] for part in report["parts"]}["ready"] == 10
    assert report["target"] == "chappe-recovered.db" and report["faults"] == []


def test_what_is_there_is_not_overwritten(chappe: Chappe, orders: Path) -> None:
    (orders.parent / "new.db").write_text("precious")
    ended = chappe("recover", "--to", "new.db", code=78)
    assert "new.db exists already; choose another name with --to" in ended.err
    assert (orders.parent / "new.db").read_text() == "precious"


def test_no_file_is_1_and_makes_none(chappe: Chappe, tmp_path: Path) -> None:
    assert "chappe.db does not exist" in chappe("recover", code=1).err
    assert list(tmp_path.glob("chappe*")) == []


def test_while_an_engine_runs_it_is_75(chappe: Chappe, orders: Path) -> None:
    engine = subprocess.Popen([sys.executable, "-m", "chappe", "engine"], cwd=orders.parent, env=environment(), stderr=subprocess.DEVNULL)
    try:
        until((orders.parent / "chappe.db.sock").exists, "the engine to be up")
        assert f"owned by process {engine.pid}" in chappe("recover", code=75).err
        assert not (orders.parent / "chappe-recovered.db").exists()
        text = {row["check"]: row["text"] for row in chappe("doctor", "--json").json}["file"]
        assert text.startswith(f"engine {engine.pid} answers")
    finally:
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(60) == 0


def test_a_folder_that_can_only_be_read_is_read(chappe: Chappe, orders: Path) -> None:
    """What a sick disk is after the kernel mounted it read-only: no lock can be made there."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a disk")
    for path in orders.parent.glob("chappe.db*"):
        if path != orders:
            path.unlink()
    disk = orders.parent / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)
    try:
        shutil.copy(orders, disk / "chappe.db")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert chappe("--broker", "sqlite:///disk/chappe.db", "recover", "--to", "new.db").code == 0
        assert waiting(chappe, "--broker", "sqlite:///new.db") == 10
        (file,) = [row for row in chappe("--broker", "sqlite:///disk/chappe.db", "doctor", "--json", code=1).json if row["check"] == "file"]
        assert "cannot be written by this user" in file["text"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
