"""What can be read of a damaged file is saved into a new one, and the damaged file is only read."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from chappe.engines.file.database import migrations
from chappe.engines.file.inspection import examine
from chappe.engines.file.owner import Ownership
from chappe.engines.file.pages import Pages, tables
from chappe.engines.file.recovery import Report, recover
from chappe.errors import AlreadyOwned, CorruptStorage, NotFound, StorageFull, UnsafeStorage
from tests.faults.sick.patients import HttpProtocol, Outcome, patient, run_engine

COUNTED = ("ready", "delayed", "dead", "archive", "tracked", "idempotency", "mark", "failure", "schedule", "queue", "exchange")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> HttpProtocol:
    """A file that is all in the database."""
    return patient(tmp_path_factory.mktemp("whole"), 100, checkpoint=True)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> HttpProtocol:
    """A file that is all in its log."""
    return patient(tmp_path_factory.mktemp("logged"), 100)


@pytest.fixture
def sick(whole: HttpProtocol, tmp_path: Path) -> Path:
    return whole.copy(tmp_path / "sick")


def saved(sick: Path) -> tuple[Report, Outcome, Path]:
    """Save a file that must not be changed by it, and run an engine on the new one."""
    before = {path.name: path.read_bytes() for path in sick.parent.glob("chappe.db*") if not path.name.endswith(".lock")}
    new = sick.parent / "new.db"
    report = recover(sick, new)
    after = {path.name: path.read_bytes() for path in sick.parent.glob("chappe.db*") if not path.name.endswith(".lock")}
    assert after == before
    kept = sick.parent / "kept.db"
    shutil.copy(new, kept)
    return report, run_engine(new), kept


def change(path: Path, sql: str, *bindings: Any) -> None:
    db = apsw.Connection(str(path))
    db.execute(sql, bindings)
    assert db.changes() > 0
    db.close()


def asked(path: Path, sql: str) -> list[Any]:
    db = apsw.Connection(str(path))
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def roots(path: Path) -> dict[str, int]:
    return dict(asked(path, "select name, rootpage from sqlite_schema where rootpage > 0"))


def zero(path: Path, page: int) -> None:
    with path.open("rb+") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))


def part(report: Report, table: str) -> Any:
    return next(part for part in report.parts if part.table == table)


# --- files that are whole


@pytest.mark.parametrize("which", ["whole", "logged"])
def test_a_file_that_is_whole_is_saved_as_it_is(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    ill: HttpProtocol = request.getfixturevalue(which)
    sick = ill.copy(tmp_path / "sick")
    report, found, kept = saved(sick)
    assert report.whole and report.faults == [] and report.notes == []
    assert (found.error, found.given, found.wrong, found.damaged) == (None, ill.everything, 0, 0)
    for table in COUNTED:
        theirs, ours = (asked(path, f"select * from {table} order by 1, 2") for path in (sick, kept))
        assert theirs == ours, table
    tally = "select name, value from tally where name like 'queue %' order by 1"
    assert asked(sick, tally) == asked(kept, tally)


def test_a_folder_may_have_any_name(whole: HttpProtocol, tmp_path: Path) -> None:
    sick = whole.copy(tmp_path / "a#b?c%41")
    report, found, _ = saved(sick)
    assert report.whole and found.given == whole.everything
    assert examine(sick) == []


def test_the_new_file_is_private_whole_and_alone(sick: Path) -> None:
    _, _, kept = saved(sick)
    assert stat.S_IMODE((sick.parent / "new.db").stat().st_mode) == 0o600
    assert examine(kept) == []
    assert [path.name for path in sick.parent.iterdir() if path.name.startswith(".")] == [], "nothing is left of the work"


def test_ids_letters_and_records_are_numbered_on(sick: Path) -> None:
    change(sick, "delete from dead where number = (select max(number) from dead)")  # numbers of what is gone are not given again
    change(sick, "delete from archive where seq = (select max(seq) from archive)")
    numbers = dict(asked(sick, "select name, seq from sqlite_sequence"))
    ids = asked(sick, "select max(id) from (select id from ready union all select id from delayed)")[0][0]
    report, _, kept = saved(sick)
    assert dict(asked(kept, "select name, seq from sqlite_sequence")) == numbers
    assert asked(kept, "select value > ? from meta where name = 'next_id'".replace("?", str(ids))) == [(1,)]
    assert part(report, "archive").lost == 1, "records have no gaps, so a missing one is known"


# --- damage


def test_a_lost_root_loses_only_the_rows_on_that_page(whole: HttpProtocol, sick: Path) -> None:
    page = roots(sick)["ready"]
    there = int.from_bytes(sick.read_bytes()[(page - 1) * 4096 :][3:5], "big")
    zero(sick, page)
    report, found, _ = saved(sick)
    assert (found.error, found.wrong) == (None, 0)
    assert 0 < len(whole.everything - found.given) <= there
    assert part(report, "ready").lost == len(whole.everything - found.given)
    assert found.given <= whole.everything, "what had ended stays ended"
    assert not report.whole


def test_without_its_first_page_every_message_is_found_on_the_others(whole: HttpProtocol, sick: Path) -> None:
    zero(sick, 1)
    report, found, _ = saved(sick)
    assert found.error is None and found.given >= whole.everything
    assert "SQLite cannot open it" in report.faults[0]
    assert any("some messages that had ended may be there again" in note for note in report.notes)


def test_with_a_header_of_another_program_but_our_tables_it_is_saved(whole: HttpProtocol, sick: Path) -> None:
    data = bytearray(sick.read_bytes())
    data[68] ^= 1  # application_id
    data[60] ^= 1  # user_version
    sick.write_bytes(data)
    report, found, _ = saved(sick)
    assert found.given == whole.everything
    assert "its header is damaged" in report.faults[0]


def test_messages_of_a_queue_whose_name_is_lost_wait_in_a_queue_that_says_so(whole: HttpProtocol, sick: Path) -> None:
    zero(sick, roots(sick)["queue"])
    report, found, kept = saved(sick)
    assert found.given == whole.everything
    names = [name for (name,) in asked(kept, "select name from queue order by id")]
    assert names == ["recovered.1", "recovered.2", "recovered.3", "recovered.5"], "but for the queue with nothing in it"
    assert 'serve them with Queue("recovered.1")' in " ".join(report.notes)


def test_a_message_that_the_disk_changed_ends_as_a_dead_letter(whole: HttpProtocol, sick: Path) -> None:
    (stored,) = asked(sick, "select envelope from ready order by id limit 1")[0]
    at = stored.index(b'"text": "') + 12
    changed = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
    change(sick, "update ready set envelope = ? where id = (select min(id) from ready)", changed)
    report, found, kept = saved(sick)
    assert examine(sick) == ["ready: the disk changed 1 message"]
    assert sum(p.damaged for p in report.parts) == 1
    assert (found.wrong, found.damaged, len(whole.everything - found.given)) == (0, 1, 1)
    assert asked(sick.parent / "new.db", "select reason from dead where reason = 'damaged'") == [("damaged",)]
    assert asked(kept, "select count(*) from dead where reason = 'damaged'") == [(0,)], "the engine finds it when it is its turn"


def test_a_row_that_cannot_be_is_left_out_and_counted(sick: Path) -> None:
    change(sick, "update tracked set state = 'dane' where message_id = (select min(message_id) from tracked)")
    report, _, _ = saved(sick)
    assert part(report, "tracked").lost == 1 and not report.whole
    assert report.notes == ["rows that cannot be what was written are left out: 1 of tracked"]


def test_a_message_whose_time_cannot_be_is_due_now(whole: HttpProtocol, sick: Path) -> None:
    change(sick, "update delayed set due = 9e300 where id = (select id from delayed order by due limit 1)")
    _, found, kept = saved(sick)
    assert found.given == whole.everything
    assert asked(kept, "select count(*) from delayed where due < unixepoch() + 60") == [(1,)]


def test_flags_that_this_chappe_does_not_know_are_kept(sick: Path) -> None:
    change(sick, "update ready set flags = flags | 4096")
    report, _, kept = saved(sick)
    assert report.whole
    assert asked(kept, "select min(flags & 4096) from ready") == [(4096,)]


def test_an_id_that_the_disk_changed_is_that_of_the_sealed_envelope(sick: Path) -> None:
    before = asked(sick, "select message_id from ready order by id limit 1")
    change(sick, "update ready set message_id = 'x' || message_id where id = (select min(id) from ready)")
    _, _, kept = saved(sick)
    assert asked(kept, "select message_id from ready order by id limit 1") == before


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("dead", "history", b"\xc1"), ("tracked", "progress", b"\xc1")],
)
def test_a_lesser_part_that_cannot_be_read_costs_nothing_else(sick: Path, table: str, column: str, value: bytes) -> None:
    count = asked(sick, f"select count(*) from {table}")
    change(sick, f"update {table} set {column} = ?", value)
    report, found, kept = saved(sick)
    assert asked(kept, f"select count(*) from {table}") == count
    assert found.error is None and report.whole


def test_what_waits_for_a_lost_message_ends(sick: Path) -> None:
    """A key that is taken until a message is done, and the state that somebody waits for, must not outlive the message."""
    change(sick, "insert into unique_key values ('once', 'gone', null), ('for-a-day', 'gone', unixepoch() + 86400)")
    change(sick, "insert into tracked (message_id, type, state, queue, at) values ('gone', 't', 'ready', 'orders', 1.0)")
    change(sick, "insert into tracked (message_id, type, state, queue, at, into_id) values ('merged', 't', 'ready', 'orders', 1.0, 'gone')")
    change(sick, "insert into pending values (1, 'k', 999999, null, 0, 999999)")
    _, _, kept = saved(sick)
    assert asked(kept, "select name from unique_key") == [("for-a-day",)]
    assert asked(kept, "select state, error like 'lost: %' from tracked where message_id in ('gone', 'merged')") == [("dead", 1)] * 2
    assert asked(kept, "select count(*) from pending") == [(0,)]


def test_rows_of_many_pages_are_read_page_by_page(tmp_path: Path) -> None:
    """Integers of all sizes, text, blobs that reach over pages, nulls, and rows that lie on the pages above others."""
    path = tmp_path / "any.db"
    db: Any = apsw.Connection(str(path))
    db.execute(
        "create table t (a integer primary key, b any, c text) strict; create table k (k text primary key, v any) strict, without rowid"
    )
    values = [0, 1, -1, 127, -128, 2**15, -(2**23), 2**31, -(2**47), 2**63 - 1, -(2**63), 1.5, None, b"", bytes(range(256)) * 200]
    for n, value in enumerate(values):
        db.execute("insert into t values (?, ?, ?)", (n - 3, value, "x" * n * 300))
        db.execute("insert into k values (?, ?)", (f"key {n:02} {'long' * 100}", value))
    found = tables(db)
    wanted = {name: sorted(db.execute(f"select * from {name}").fetchall()) for name in found}  # noqa: S608 - names from above
    db.close()
    pages = Pages(path, 4096, found.values())
    read: dict[str, list[Any]] = {name: [] for name in found}
    for page in range(2, pages.count + 1):
        for name, rows in pages.rows(page).items():
            read[name] += [tuple(row.values()) for row in rows]
    pages.close()
    assert {name: sorted(rows) for name, rows in read.items()} == wanted


# --- the log


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def test_commits_behind_a_damaged_frame_of_the_log_are_saved(logged: HttpProtocol, tmp_path: Path) -> None:
    sick = logged.copy(tmp_path / "sick")
    flip(Path(f"{sick}-wal"), 32 + 40 * 4120 + 100)
    report, found, _ = saved(sick)
    assert report.faults[0].startswith("1 frames of the log are damaged; SQLite would forget every commit behind them")
    assert (found.error, found.given) == (None, logged.everything), "the page of the damaged frame was written again later"


def test_a_log_with_a_damaged_header_is_read_all_the_same(logged: HttpProtocol, tmp_path: Path) -> None:
    sick = logged.copy(tmp_path / "sick")
    flip(Path(f"{sick}-wal"), 17)
    _, found, _ = saved(sick)
    assert found.given == logged.everything


def test_a_database_that_is_gone_is_made_again_from_its_log(logged: HttpProtocol, tmp_path: Path) -> None:
    sick = logged.copy(tmp_path / "sick")
    sick.unlink()
    new = tmp_path / "new.db"
    recover(sick, new)
    assert not sick.exists()
    assert run_engine(new).given == logged.everything


def test_without_its_log_the_database_alone_is_saved_and_it_is_said_what_is_missing(
    whole: HttpProtocol, logged: HttpProtocol, tmp_path: Path
) -> None:
    sick = logged.copy(tmp_path / "sick")
    shutil.copy(whole.path, sick)
    Path(f"{sick}-wal").unlink()
    report, _, _ = saved(sick)
    assert "frames of the log are missing" in report.faults[0] and not report.whole


# --- refusals


def refuses(sick: Path, error: type[Exception], says: str, target: str = "new.db") -> None:
    with pytest.raises(error, match=says):
        recover(sick, sick.parent / target)


def test_a_file_that_an_engine_owns_is_refused(sick: Path) -> None:
    with Ownership(sick):
        refuses(sick, AlreadyOwned, "there is one engine for each file")
    assert not (sick.parent / "new.db").exists()


def test_nothing_is_overwritten(sick: Path) -> None:
    (sick.parent / "new.db").write_text("precious")
    refuses(sick, UnsafeStorage, "exists already; choose another name with --to")
    refuses(sick, UnsafeStorage, "exists already", "chappe.db")
    assert (sick.parent / "new.db").read_text() == "precious"


def test_no_file_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path / "chappe.db", NotFound, "does not exist")


def test_a_disk_without_room_is_refused_before_anything_is_written(sick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    refuses(sick, StorageFull, "choose a larger disk with --to")


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    other = apsw.Connection(str(tmp_path / "other.db"))
    other.execute("create table t (x)")
    other.close()
    refuses(tmp_path / "other.db", CorruptStorage, "of another program")


def test_a_file_of_a_newer_chappe_is_refused(sick: Path) -> None:
    db = apsw.Connection(str(sick))
    db.execute(f"create table later (x any) strict; pragma user_version = {migrations()[-1][0] + 1}")
    db.close()
    refuses(sick, CorruptStorage, "made by a newer Chappe")


@pytest.mark.parametrize("data", [b"", b"this is a letter to my grandmother" * 400, bytes(50_000)], ids=["empty", "letter", "zeros"])
def test_where_nothing_can_be_read_there_is_no_new_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "chappe.db").write_bytes(data)
    refuses(tmp_path / "chappe.db", CorruptStorage, "nothing of Chappe can be read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chappe.db", "chappe.db.lock"]


# --- what the disk itself refuses


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: make tools")
def test_blocks_that_the_disk_refuses_are_left_out(whole: HttpProtocol, sick: Path) -> None:
    """`strace` has the reading of one block fail as a bad sector does."""
    program = (
        "import sys, pathlib; from chappe.engines.file.recovery import recover; print(recover(*map(pathlib.Path, sys.argv[1:])).faults)"
    )
    command = [sys.executable, "-c", program, str(sick), str(sick.parent / "new.db")]
    wrapped = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-P",
        str(sick),
        "-e",
        "trace=pread64",
        "-e",
        "inject=pread64:error=EIO:when=12..12",
        *command,
    ]
    done = subprocess.run(wrapped, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "the disk gives an error for 4096 bytes of chappe.db" in done.stdout
    found = run_engine(sick.parent / "new.db")
    assert (found.error, found.wrong) == (None, 0) and len(found.given) > len(whole.everything) / 2


def test_examining_a_file_changes_nothing_and_tells_what_is_wrong(whole: HttpProtocol, logged: HttpProtocol, tmp_path: Path) -> None:
    for name, ill in (("whole", whole), ("logged", logged)):
        path = ill.copy(tmp_path / name)
        before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        assert examine(path) == []
        assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before
    path = whole.copy(tmp_path / "zeroed")
    zero(path, roots(path)["ready"])
    assert "btreeInitPage() returns error code 11" in examine(path)[0]
    path = logged.copy(tmp_path / "flipped")
    flip(Path(f"{path}-wal"), 32 + 4120 + 50)
    assert examine(path) == ["1 frames of the log are damaged: SQLite would forget every commit behind them"]
    path.unlink()
    assert examine(path) == ["it is missing, but its -wal is there"]
