"""Files that are not what the engine needs, in place of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

import apsw

from chappe.engines.file import database
from chappe.engines.file.database import migrations, open_database
from chappe.errors import ChappeError

from .program import Run, chappe
from .row import Answer, Row


def own(folder: Path) -> Path:
    """Make a sound file and give its path."""
    path = folder / "chappe.db"
    db = open_database(path)
    db.execute("insert into schedule values ('x', 1.0)")
    db.close()
    return path


def foreign(folder: Path) -> None:
    with apsw.Connection(str(folder / "chappe.db")) as other:
        other.execute("create table t (x)")


def newer(folder: Path) -> None:
    with apsw.Connection(str(own(folder))) as db:
        db.pragma("user_version", migrations()[-1][0] + 7)


def truncated(folder: Path) -> None:
    path = own(folder)
    os.truncate(path, path.stat().st_size // 2)


def overwritten(folder: Path) -> None:
    with own(folder).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 8000)


def lonely_log(folder: Path) -> None:
    (folder / "chappe.db-wal").write_bytes(b"x" * 4096)


def linked_lock(folder: Path) -> None:
    own(folder)
    (folder / "treasure").write_text("do not touch")
    (folder / "chappe.db.lock").symlink_to(folder / "treasure")


def folder_for_file(folder: Path) -> None:
    (folder / "chappe.db").mkdir()


def file_for_folder(folder: Path) -> None:
    (folder / "data").write_text("a file")


def on_a_network(_: object) -> Answer:
    """Say what the kernel would say of a network disk: there is none on every machine that runs the tests."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(database, "_file_system", lambda _: 0x6969):
        try:
            open_database(Path(folder) / "chappe.db")
        except ChappeError as error:
            assert list(Path(folder).iterdir()) == [], "something was made"
            return Answer(type(error).__name__, str(error))
    return Answer("opened", "")


def program(folder: Path) -> None:
    (folder / "chappe.db").write_bytes(b"this is a letter to my grandmother " * 400)


def engine(prepare: object, *arguments: str, broker: str = "sqlite:///chappe.db") -> Run:
    """Start the engine over a file that was prepared."""
    return chappe(
        *(arguments or ("engine",)), prepare=prepare, env={"CHAPPE_BROKER": broker}, makes=("chappe.db.lock", "chappe.db.reserve")
    )  # type: ignore[arg-type]


ROWS = [
    Row("file-foreign", "a database of another program", "its `application_id` is 0", "78", "chappe.db is an SQLite file of another program…it was left as it is",
        engine(foreign)),
    Row("file-letter", "no database at all", "14 KB of text", "78", "chappe.db cannot be read as a Chappe file…restore a copy or choose another path", engine(program)),
    Row("file-truncated", "a file that was cut in half", "its second half is gone", "78", "chappe.db cannot be read as a Chappe file", engine(truncated)),
    Row("file-overwritten", "a file whose first page was overwritten", "8,000 bytes of `ff`", "78", "chappe.db", engine(overwritten)),
    Row("file-newer", "a file of a newer Chappe", "its schema is seven ahead", "78", "made by a newer Chappe; this one knows…: upgrade chappe", engine(newer)),
    Row("file-newer-sender", "a file of a newer Chappe, for a sender", "`chappe send` beside it", "78", "made by a newer Chappe; this one knows…: upgrade chappe",
        engine(newer, "send", "order", "customer=Ada")),
    Row("file-lonely-log", "a log without its file", "`chappe.db-wal` alone", "78", "chappe.db is missing or empty, but its -wal file is there: it was truncated or half copied; nothing was changed",
        engine(lonely_log)),
    Row("file-folder", "a folder in place of the file", "`chappe.db/`", "78", "chappe.db is not a file; move it away, or choose another path", engine(folder_for_file)),
    Row("file-in-a-file", "a file in place of its folder", "`sqlite:///data/chappe.db`, where data is a file", "78", "data",
        engine(file_for_folder, broker="sqlite:///data/chappe.db")),
    Row("file-linked-lock", "a lock that is a link to something else", "`chappe.db.lock` leads elsewhere", "78", "chappe.db.lock", engine(linked_lock),
        "what it leads to is untouched"),
    Row("file-network", "a network file system", "a file on NFS", "UnsafeStorage",
        "is on NFS, where SQLite's locks cannot be trusted; put the file on a local disk (CHAPPE_ALLOW_NETWORK_DISK=1 overrides this", on_a_network),
    Row("file-nobody-may-write", "a folder in which nobody may write", "`sqlite:////proc/chappe.db`", "1", "/proc/chappe.db", engine(None, broker="sqlite:////proc/chappe.db")),
]  # fmt: skip
