"""The file is opened safely, or refused and left as it was."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from chappe.engines.file import database
from chappe.engines.file.database import APPLICATION_ID, migrations, open_database, refuse_network_disk, refuse_unsafe_sqlite
from chappe.errors import CorruptStorage, UnsafeStorage


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_new_file_is_private_and_every_setting_holds(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    db = open_database(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = {
        name: db.pragma(name) for name in ("journal_mode", "synchronous", "trusted_schema", "mmap_size", "application_id", "user_version")
    }
    assert found == {
        "journal_mode": "wal", "synchronous": 2, "trusted_schema": 0, "mmap_size": 0,
        "application_id": APPLICATION_ID, "user_version": migrations()[-1][0],
    }  # fmt: skip
    db.close()


def test_opening_again_migrates_nothing_and_keeps_what_is_there(tmp_path: Path) -> None:
    db = open_database(tmp_path / "chappe.db")
    db.execute("insert into schedule values ('x', 1.0)")
    db.close()
    db = open_database(tmp_path / "chappe.db")
    assert db.execute("select slot from schedule").fetchall() == [(1.0,)]
    db.close()


def test_a_file_of_another_program_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = apsw.Connection(str(path))
    other.execute("create table t (x)")
    other.close()
    before = digest(path)
    with pytest.raises(CorruptStorage, match="another program"):
        open_database(path)
    assert digest(path) == before


def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    path.write_bytes(b"this is a letter to my grandmother" * 400)
    before = digest(path)
    with pytest.raises(CorruptStorage, match="cannot be read"):
        open_database(path)
    assert digest(path) == before


NOW = """
import os, resource, sys
from pathlib import Path
from chappe.engines.file.database import open_database
path, left = Path(sys.argv[1]), int(sys.argv[2])
open_database(path).close()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    for _ in range(left):
        os.close(held.pop())
try:
    open_database(path)
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("left", [1, 2])
def test_a_process_without_file_handles_finds_no_fault_with_the_file(tmp_path: Path, left: int) -> None:
    done = subprocess.run([sys.executable, "-c", NOW, str(tmp_path / "chappe.db"), str(left)], capture_output=True, text=True, check=True)
    assert done.stdout == "CantOpenError\n"


@pytest.mark.parametrize("kind", [apsw.BusyError, apsw.CantOpenError, apsw.FullError, apsw.IOError, apsw.NoMemError])
def test_what_may_pass_is_not_said_to_be_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[apsw.Error]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("not now")

    monkeypatch.setattr(database, "_configure", fail)
    with pytest.raises(kind, match="not now"):
        open_database(tmp_path / "chappe.db")


def test_a_migration_that_sqlite_took_back_itself_is_told_by_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chappe.db"
    known = migrations()
    broken = "create table later (x blob not null) strict; insert or rollback into later values (null);"
    monkeypatch.setattr(database, "migrations", lambda: [*known, (known[-1][0] + 1, broken)])
    with pytest.raises(CorruptStorage, match=r"NOT NULL constraint failed: later\.x"):
        open_database(path)


def test_a_disk_that_is_full_when_the_file_is_migrated_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chappe.db"
    open_database(path).close()
    known = migrations()
    large = "create table later (x blob) strict; insert into later values (zeroblob(1000000));"
    monkeypatch.setattr(database, "migrations", lambda: [*known, (known[-1][0] + 1, large)])
    monkeypatch.setattr(apsw, "connection_hooks", [lambda db: db.pragma("max_page_count", 1)])  # none but those that are there
    with pytest.raises(apsw.FullError):
        open_database(path)
    monkeypatch.undo()
    open_database(path).close()


def test_a_file_of_a_newer_chappe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    db = open_database(path)
    db.pragma("user_version", 999)
    db.close()
    with pytest.raises(CorruptStorage, match="newer Chappe; this one knows"):
        open_database(path)


def test_an_empty_file_beside_a_full_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    (tmp_path / "chappe.db-wal").write_bytes(b"x" * 100)
    with pytest.raises(CorruptStorage, match="truncated or half copied"):
        open_database(path)
    path.touch()
    with pytest.raises(CorruptStorage, match="truncated or half copied"):
        open_database(path)


def test_a_migration_that_fails_leaves_the_schema_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chappe.db"
    open_database(path).close()
    known = migrations()
    broken = (known[-1][0] + 1, "create table later (x) strict; insert into nowhere values (1);")
    monkeypatch.setattr(database, "migrations", lambda: [*known, broken])
    with pytest.raises(CorruptStorage):
        open_database(path)
    monkeypatch.undo()
    db = open_database(path)
    assert db.execute("select name from sqlite_master where name = 'later'").fetchall() == []
    db.close()


@pytest.mark.parametrize(
    ("version", "safe"),
    [(3040001, False), (3044005, False), (3044006, True), (3050006, False), (3050007, True), (3051000, False), (3051002, False), (3051003, True), (3054001, True)],
)  # fmt: skip
def test_a_sqlite_with_the_wal_reset_bug_is_refused(version: int, safe: bool) -> None:
    if safe:
        refuse_unsafe_sqlite(version)
    else:
        with pytest.raises(UnsafeStorage, match="pip install -U apsw"):
            refuse_unsafe_sqlite(version)


def test_a_network_disk_is_refused_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_file_system", lambda _: 0x6969)
    with pytest.raises(UnsafeStorage, match="NFS"):
        refuse_network_disk(tmp_path / "chappe.db")
    monkeypatch.setenv("CHAPPE_ALLOW_NETWORK_DISK", "1")
    refuse_network_disk(tmp_path / "chappe.db")


def test_the_kind_of_this_disk_is_read_from_the_kernel() -> None:
    assert database._file_system(Path("/proc")) == 0x9FA0  # PROC_SUPER_MAGIC, statfs(2)


def test_every_migration_has_its_own_number() -> None:
    numbers = [number for number, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_mask_of_the_process_is_put_back(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        open_database(tmp_path / "chappe.db").close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
