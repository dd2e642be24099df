"""Saves what can be read of a damaged file into a new one; the damaged file is only ever read.

It works on a copy with the log applied. SQLite reads each table from both ends up to the damage; what lies between, or has lost the
pages above it, is found page by page. A row is taken when it can be believed; the seal of its envelope goes with it, so that the
engine still refuses a message that the disk changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct

from chappe.engines.file import writeahead
from chappe.engines.file.archiving import events_of
from chappe.engines.file.database import APPLICATION_ID, Database, migrations, open_database, open_to_read
from chappe.engines.file.inspection import count_envelopes, nobody_else, quick_check
from chappe.engines.file.integrity import SEALED, has_ids, is_credible, repaired
from chappe.engines.file.pages import Pages, Row, Table, tables
from chappe.engines.file.private_files import sync
from chappe.engines.file.queues import Counts
from chappe.errors import CorruptStorage, NotFound, StorageFull, UnsafeStorage
from chappe.messages.codec import encode_json
from chappe.words import counted

_IDS_AHEAD: Final = 1_000_000
_BATCH: Final = 20_000
_BLOCK: Final = 4096
# Tables whose rows can be told from all others, and from those of indexes, by their shape and content.
_LOOSE: Final = (
    "queue", "exchange", "ready", "delayed", "dead", "archive", "tracked", "idempotency", "pending", "tally", "mark", "unique_key",
    "failure",
)  # fmt: skip

# What must agree with the messages that were found.
_AGREE: Final = """
delete from delayed where id in (select id from ready);
delete from pending where not exists (select 1 from ready r
        where r.queue = pending.queue and r.rank = pending.rank and r.id = pending.id and pending.due is null)
    and not exists (select 1 from delayed d where d.due = pending.due and d.id = pending.id);
"""
_REMEMBERED: Final = "select 1 from unique_key union all select 1 from mark union all select 1 from tracked limit 1"
_AGREE_BY_ID: Final = """
create temp table waiting as select message_id from ready union select message_id from delayed;
create temp table known as select message_id from waiting union select message_id from dead;
create unique index temp.waiting_id on waiting (message_id);
create unique index temp.known_id on known (message_id);
delete from unique_key where until is null and message_id not in (select message_id from waiting);
delete from mark where message_id not in (select message_id from known);
update tracked set state = 'dead', error = 'lost: the file was damaged, and this message was not found in it', at = unixepoch()
    where state not in ('done', 'dead') and coalesce(into_id, message_id) not in (select message_id from known);
"""


class Part(Struct):
    """What became of one table: `lost` is None where nothing says how much there was."""

    table: str
    read: int
    damaged: int = 0
    lost: int | None = 0


class Report(Struct):
    """What was saved, and what was not."""

    source: str
    target: str
    faults: list[str]
    parts: list[Part]
    queues: list[dict[str, Any]]
    notes: list[str]

    @property
    def whole(self) -> bool:
        """Whether every row that there was is in the new file as it was."""
        return not any(part.damaged or part.lost != 0 for part in self.parts)


def recover(sick: Path, target: Path, say: Callable[[str], None] = lambda _: None) -> Report:
    """Save what can be read of `sick` into the new file `target`.

    Raises `AlreadyOwned` while an engine runs, `NotFound` where there is no file, `UnsafeStorage` if the target exists, `StorageFull`,
    and `CorruptStorage` if nothing can be read or the file is not ours; then there is no target.
    """
    files = [Path(f"{sick}{suffix}") for suffix in ("", "-wal")]
    if not any(path.exists() for path in files):
        raise NotFound(f"{sick} does not exist (is --broker or CHAPPE_BROKER right?)")
    if taken := next((path for path in (target, Path(f"{target}-wal")) if path.exists()), None):
        raise UnsafeStorage(f"{taken} exists already; choose another name with --to, nothing is ever overwritten")
    sizes = [path.stat().st_size if path.exists() else 0 for path in files]
    target.parent.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(target.parent).free, 2 * sizes[0] + 3 * sizes[1]
    if free < needed:
        raise StorageFull(
            f"{needed / 1024**2:.0f} MiB are needed in {target.parent}, {free / 1024**2:.0f} are free; choose a larger disk with --to"
        )
    with nobody_else(sick), tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        return _Salvage(sick, target, Path(folder), say).run()


class _Salvage:
    """One run of `recover`."""

    def __init__(self, sick: Path, target: Path, folder: Path, say: Callable[[str], None]) -> None:
        self._sick = sick
        self._target = target
        self._folder = folder
        self._say = say
        self._now = time.time()
        self._faults: list[str] = []
        self._notes: list[str] = []
        self._image = folder / "image"
        self._draft = open_database(folder / "draft")
        self._draft.pragma("synchronous", 0)  # it is synced once, when it is whole
        self._draft.pragma("wal_autocheckpoint", 1000)
        self._draft.pragma("temp_store", 1)  # the ids of a long backlog would fill the memory
        self._tables = tables(self._draft)
        self._refused = Counter[str]()
        self._pending = 0
        self._highest = 0
        self._sequences: dict[str, int] = {}
        self._next_id = 0
        self._tally: dict[int, Counts] = {}

    def run(self) -> Report:
        try:
            self._copy()
            self._draft.execute("begin")
            self._draft.execute("delete from meta")
            if self._read_with_sqlite():
                self._read_pages()
            parts, queues = self._settle()
            self._finish()
        finally:
            self._draft.close()
        return Report(str(self._sick), str(self._target), self._faults, parts, queues, self._notes)

    # --- the copy

    def _copy(self) -> None:
        """Copy the file, and bring the copy up to the last commit that its log has whole."""
        self._say(f"copying {self._sick}")
        for suffix in ("", "-wal"):
            source, copy = Path(f"{self._sick}{suffix}"), Path(f"{self._image}{suffix}")
            copy.touch(mode=0o600)
            if source.exists() and (refused := _copied(source, copy)):
                self._faults.append(f"the disk gives an error for {counted(refused, 'byte')} of {source.name}")
        with self._image.open("rb+") as image, Path(f"{self._image}-wal").open("rb") as pages:
            log = writeahead.read(self._image, writeahead.page_size_of(image.read(32)), writeahead.index_of(self._sick))
            for frame in log.frames:
                pages.seek(frame.offset)
                image.seek((frame.page - 1) * log.page_size)
                image.write(pages.read(log.page_size))
            if log.frames and not log.hurt:
                image.truncate(log.frames[-1].size * log.page_size)
        Path(f"{self._image}-wal").unlink(missing_ok=True)
        if log.hurt:
            self._faults.append(f"{log.hurt}; SQLite would forget every commit behind them, here those that are whole count")

    # --- reading

    def _read_with_sqlite(self) -> bool:
        """Read every table as far as SQLite can; says whether there is damage."""
        db = open_to_read(self._image, "immutable=1")
        try:
            try:
                names = self._tables_of(db)
            except (apsw.Error, UnicodeDecodeError) as error:
                self._faults.append(f"SQLite cannot open it ({error}): what is found on its pages is all there is")
                return True
            faults = quick_check(db)
            self._faults += faults
            self._say(f"reading {len(names)} tables")
            for name in [name for name in self._tables if name in names]:
                faults = [*faults, *self._read_table(db, self._tables[name])]
            with contextlib.suppress(apsw.Error):
                self._sequences = {str(name): int(seq) for name, seq in db.execute("select name, seq from sqlite_sequence").fetchall()}
            is_current = int(db.pragma("user_version")) == migrations()[-1][0]
            return bool(faults) or (is_current and bool(set(self._tables) - names))
        finally:
            db.close()

    def _tables_of(self, db: Database) -> set[str]:
        """Return the names of its tables, or raise `CorruptStorage` if they are not ours."""
        names = {str(name) for (name,) in db.execute("select name from sqlite_schema where type = 'table'").fetchall()}
        mark, version, newest = db.pragma("application_id"), int(db.pragma("user_version")), migrations()[-1][0]
        if not names:
            raise CorruptStorage(f"nothing of Chappe can be read in {self._sick}: it is empty; restore a copy")
        if mark != APPLICATION_ID and not {"ready", "meta", "queue"} <= names:
            raise CorruptStorage(f"{self._sick} is an SQLite file of another program (application_id {mark}); nothing was read")
        if version > newest and names - set(self._tables) - {"sqlite_sequence"}:
            raise CorruptStorage(f"{self._sick} has schema {version}, made by a newer Chappe; this one knows {newest}: upgrade chappe")
        if mark != APPLICATION_ID or version > newest:
            self._faults.append(f"its header is damaged (application_id {mark}, schema {version})")
        return names

    def _read_table(self, db: Database, table: Table) -> list[str]:
        """Read a table forwards until an error, then backwards; give the errors."""
        faults: list[str] = []
        present = {str(row[1]) for row in db.execute(f"pragma table_info({table.name})").fetchall()}
        for backwards in (False, True):
            try:
                for row in table.select(present, backwards=backwards).rows(db):
                    if row is not None and is_credible(table.name, row, self._now):
                        self._store(table.name, row)
                    else:
                        self._refused[table.name] += 1
                return faults
            except apsw.Error as error:
                faults.append(f"{table.name}: {error}")
                self._faults += faults[-1:] if not backwards else []
        return faults

    def _read_pages(self) -> None:
        """Look through all pages for rows that SQLite could not reach."""
        with self._image.open("rb") as image:
            header = image.read(40)
        known = writeahead.page_size_of(header)
        pages = Pages(self._image, known or int(self._draft.pragma("page_size")), [self._tables[name] for name in _LOOSE])
        try:
            self._say(f"looking through {pages.count} pages")
            if not known or len(pages.free) < int.from_bytes(header[36:40], "big"):
                self._notes.append("not all unused pages are known: some messages that had ended may be there again")
            for number in set(range(2, pages.count + 1)) - pages.free:
                self._take_page(pages.rows(number))
        finally:
            pages.close()

    def _take_page(self, found: dict[str, list[Row]]) -> None:
        """Store the rows of a page, all of which are of one table: of that for which most of them can be believed."""
        credible = {
            table: [row for row in rows if is_credible(table, row, self._now) and has_ids(table, row)] for table, rows in found.items()
        }
        most = max(map(len, credible.values()), default=0)
        best = [table for table, rows in credible.items() if most and len(rows) == most]
        if len(best) == 1:
            for row in credible[best[0]]:
                self._store(best[0], row)

    # --- storing

    def _store(self, table: str, row: Row) -> None:
        row = repaired(table, row, self._now)
        self._highest = max([self._highest, *(row[name] for name in ("id", "version") if table != "queue" and name in row)])
        if table == "meta":
            self._next_id = max(self._next_id, row["value"] if row["name"] == "next_id" else 0)
            return
        if table == "tally" and row["name"].startswith("queue "):
            self._tally[int(row["name"][6:])] = msgspec.json.decode(row["value"], type=Counts)
            return
        names = list(row)
        self._draft.execute(
            f'insert or ignore into "{table}" ({", ".join(names)}) values ({", ".join("?" * len(names))})',  # noqa: S608 - names of our schema
            [row[name] for name in names],
        )
        self._pending += 1
        if self._pending >= _BATCH:
            self._pending = 0
            self._draft.execute("commit")
            self._draft.execute("begin")

    # --- the end

    def _settle(self) -> tuple[list[Part], list[dict[str, Any]]]:
        """Make what was found agree with itself, and count it against what there should be."""
        draft = self._draft
        draft.execute(_AGREE)
        if draft.execute(_REMEMBERED).fetchone():
            draft.execute(_AGREE_BY_ID)
        unnamed = """select queue from ready union select queue from delayed union select queue from dead except select id from queue"""
        for (queue,) in draft.execute(unnamed).fetchall():
            draft.execute("insert into queue values (?, ?, '[]', 'chappe recover')", (queue, f"recovered.{queue}"))
            self._notes.append(
                f'the name of queue {queue} is lost: its messages wait in "recovered.{queue}", serve them with Queue("recovered.{queue}")'
            )
        draft.execute("insert into meta values ('next_id', ?), ('held', -1)", (max(self._next_id, self._highest) + _IDS_AHEAD,))
        self._number_on()
        queues = [
            self._recount(int(identity), str(name))
            for identity, name in draft.execute("select id, name from queue order by name").fetchall()
        ]
        if refused := ", ".join(f"{count} of {table}" for table, count in self._refused.items()):
            self._notes.append(f"rows that cannot be what was written are left out: {refused}")
        return [self._part(table, queues) for table in self._tables if table not in ("meta", "tally")], queues

    def _number_on(self) -> None:
        """Have letters and records numbered on behind every number that was ever given, as far as that is known."""
        for table, column in (("dead", "number"), ("archive", "seq"), ("queue", "id")):
            (highest,) = self._draft.execute(f"select coalesce(max({column}), 0) from {table}").fetchone()  # noqa: S608 - constant names
            last = self._sequences.get(table)
            if last is None or not highest <= last < 2**62:
                last = int(highest) + (_IDS_AHEAD if self._faults else 0)
            self._draft.execute("delete from sqlite_sequence where name = ?", (table,))
            self._draft.execute("insert into sqlite_sequence values (?, ?)", (table, last))

    def _recount(self, queue: int, name: str) -> dict[str, Any]:
        found = [
            int(self._draft.execute(f"select count(*) from {table} where queue = ?", (queue,)).fetchone()[0])  # noqa: S608 - constant names
            for table in ("ready", "delayed", "dead")
        ]
        known = self._tally.get(queue, None if self._faults else Counts())
        total = msgspec.structs.replace(known or Counts(), rows=found[0], delayed=found[1], dead=found[2])
        self._draft.execute("insert or replace into tally values (?, ?)", (f"queue {queue}", encode_json(total)))
        before = None if known is None else (known.rows, known.delayed, known.dead)
        line: dict[str, Any] = {"queue": name}
        for state, read, there_were in zip(("ready", "delayed", "dead"), found, before or (None, None, None), strict=True):
            line |= {state: read, f"{state}_lost": None if there_were is None else max(0, there_were - read)}
        return line

    def _part(self, table: str, queues: list[dict[str, Any]]) -> Part:
        if table in SEALED:
            read, damaged = count_envelopes(self._draft, table)
        else:
            (read,), damaged = self._draft.execute(f'select count(*) from "{table}"').fetchone(), 0  # noqa: S608 - names of our schema
        lost: int | None = None if self._faults else self._refused[table]
        if table in ("ready", "delayed", "dead"):
            each = [queue[f"{table}_lost"] for queue in queues]
            lost = None if None in each else sum(each)
        elif table == "archive" and "archive" in self._sequences:
            row = self._draft.execute("select seq, '', '', envelope, events from archive order by seq limit 1").fetchone()
            lost = 0 if row is None else self._sequences["archive"] - events_of(*row)[0][0] + 1 - read
        return Part(table, int(read), damaged, lost)

    def _finish(self) -> None:
        """Put the new file on the disk under its name, whole or not at all."""
        draft = self._draft
        draft.execute("commit")
        if faults := quick_check(draft):
            raise CorruptStorage(f"the new file is damaged as well ({faults[0]}); is {self._target.parent} on a sound disk?")
        if (
            not draft.execute("select 1 from queue union all select 1 from archive union all select 1 from tracked limit 1").fetchone()
            and self._faults
        ):
            raise CorruptStorage(f"nothing of Chappe can be read in {self._sick}: {self._faults[0]}; restore a copy")
        draft.close()
        sync(self._folder / "draft")
        os.link(self._folder / "draft", self._target)  # unlike a rename, it never replaces a file
        sync(self._target.parent)


def _copied(source: Path, target: Path) -> int:
    """Copy what the disk gives, with zeros in the place of what it refuses, and say how many bytes that were."""
    refused = 0
    handle = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(handle).st_size
        with target.open("rb+") as copy:
            for at in range(0, size, _BLOCK):
                length = min(_BLOCK, size - at)
                try:
                    copy.write(os.pread(handle, length, at))
                except OSError:
                    copy.write(bytes(length))
                    refused += length
    finally:
        os.close(handle)
    return refused
