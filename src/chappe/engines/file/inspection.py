"""Says what is wrong with a file that no engine owns, and changes nothing in it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Final

import apsw

from chappe.engines.file import writeahead
from chappe.engines.file.archiving import events_of
from chappe.engines.file.database import APPLICATION_ID, Database, migrations, open_to_read
from chappe.engines.file.integrity import SEALED, envelope_of
from chappe.engines.file.owner import Ownership
from chappe.words import counted

_SHOWN: Final = 5


@contextlib.contextmanager
def nobody_else(path: Path) -> Generator[None]:
    """Keep engines away from a file; where the lock cannot be made, because the disk can only be read, there is none."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(Ownership(path))
        yield


def examine(path: Path) -> list[str]:
    """Return what is wrong with a file, at most a few lines; nothing if it is whole. The caller keeps engines away.

    It reads every page, and the seal of every envelope.
    """
    if not path.exists():
        return ["it is missing, but its -wal is there"]
    with path.open("rb") as file:
        page_size = writeahead.page_size_of(file.read(32))
    log = writeahead.read(path, page_size, writeahead.index_of(path))
    if log.hurt:
        return [f"{log.hurt}: SQLite would forget every commit behind them"]
    mode = "mode=ro" if log.frames else "immutable=1"  # without a log nothing need be written to read it
    try:
        db = open_to_read(path, mode)
    except apsw.Error as error:
        return [f"it cannot be opened: {error}"]
    try:
        mark, version, newest = db.pragma("application_id"), int(db.pragma("user_version")), migrations()[-1][0]
        if mark != APPLICATION_ID:
            return [f"it is of another program (application_id {mark})"]
        if version > newest:
            return [f"its schema {version} is of a newer Chappe, this one knows {newest}"]
        return quick_check(db) or _broken_seals(db)
    except apsw.Error as error:
        return [str(error)]
    finally:
        db.close()


def count_envelopes(db: Database, table: str) -> tuple[int, int]:
    """Return how many messages a table of sealed envelopes has, and how many of them the disk changed."""
    if table == "archive" and "events" in {row[1] for row in db.execute("pragma table_info(archive)").fetchall()}:
        rows = db.execute("select seq, '', '', envelope, events from archive")
        envelopes = (envelope for row in rows for *_, envelope in events_of(*row))
    else:
        envelopes = (envelope for (envelope,) in db.execute(f"select envelope from {table}"))  # noqa: S608 - constant names
    count = damaged = 0
    for envelope in envelopes:
        count += 1
        damaged += envelope_of(envelope) is None
    return count, damaged


def quick_check(db: Database) -> list[str]:
    """Return what SQLite says about the structure of all pages."""
    try:
        lines = "\n".join(str(row[0]) for row in db.execute(f"pragma quick_check({_SHOWN})").fetchall()).splitlines()
    except apsw.Error as error:
        return [str(error)]
    return [] if lines == ["ok"] else [line for line in lines if not line.startswith("***")][:_SHOWN]


def _broken_seals(db: Database) -> list[str]:
    tables = {str(name) for (name,) in db.execute("select name from sqlite_schema where type = 'table'").fetchall()}
    found: list[str] = []
    for table in sorted(SEALED & tables):
        _, count = count_envelopes(db, table)
        if count:
            found.append(f"{table}: the disk changed {counted(count, 'message')}")
    return found
