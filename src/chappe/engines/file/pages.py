"""Reads rows from the single pages of an SQLite file, where the trees above them are gone (sqlite.org/fileformat2.html).

SQLite reads them itself: a page is put in the place of the root of an empty table, and so is that whole table.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import apsw

from chappe.engines.file.database import Database

Row = dict[str, Any]

_TABLE_LEAF: Final = 0x0D
_INDEX_LEAF: Final = 0x0A
_INDEX_INTERIOR: Final = 0x02
_TYPES: Final = {"INTEGER": "'integer'", "REAL": "'real', 'integer'", "TEXT": "'text'", "BLOB": "'blob'"}


class Column(NamedTuple):
    """A column of a strict table; `default` is as SQL says it."""

    name: str
    kind: str
    nullable: bool
    default: str | None


class Select(NamedTuple):
    """A statement that reads rows of a table, each behind whether it can be of that table."""

    table: str
    sql: str
    names: tuple[str, ...]
    texts: frozenset[str]

    def rows(self, db: Database) -> Iterator[Row | None]:
        """Return the rows; None for one that cannot be of the table."""
        for fits, *values in db.execute(self.sql):
            try:
                row = {n: v.decode() if n in self.texts and isinstance(v, bytes) else v for n, v in zip(self.names, values, strict=True)}
            except UnicodeDecodeError:
                row = None
            yield row if fits else None


class Table(NamedTuple):
    """A table of the schema; one without a `key` has row ids that no column shows."""

    name: str
    has_rowid: bool
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def select(self, present: Collection[str], *, backwards: bool = False, probed: bool = False) -> Select:
        """Return what reads the rows in the order of their keys with those columns that are there; of a `probe` those that fit."""
        columns = [column for column in self.columns if column.name in present]
        names = [column.name for column in columns] + ([] if self.key else ["rowid"])
        read = [f"case typeof({name}) when 'text' then cast({name} as blob) else {name} end" for name in names]
        typed = [f"typeof({c.name}) in ({_TYPES[c.kind]}{', ' + repr('null') if c.nullable else ''})" for c in columns if c.kind in _TYPES]
        fits, order = " and ".join(["true", *typed]), ("rowid",) if self.has_rowid else self.key
        where = f" where surplus is 'none' and {fits}" if probed else ""
        by = ", ".join(f"{name}{' desc' if backwards else ''}" for name in order)
        sql = f"select {fits}, {', '.join(read)} from {self.name}{where} order by {by}"  # noqa: S608 - names of our schema
        return Select(self.name, sql, tuple(names), frozenset(column.name for column in columns if column.kind == "TEXT"))

    @property
    def probe(self) -> str:
        """The statement that makes a table to read its pages by: what a row does not have, or has beside it, is seen."""
        alias = self.has_rowid and self.key
        columns = [
            f"{c.name} integer primary key" if alias and c.name in self.key else f"{c.name} any default {c.default or _missing(c.kind)}"
            for c in self.columns
        ]
        ending = "strict" if self.has_rowid else "strict, without rowid"
        keyed = "" if self.has_rowid else f", primary key ({', '.join(self.key)})"
        return f"create table {self.name} ({', '.join(columns)}, surplus any default 'none'{keyed}) {ending}"


def _missing(kind: str) -> str:
    """Return a default that a column of this kind cannot have."""
    return "x''" if kind == "TEXT" else "''"


def tables(db: Database) -> dict[str, Table]:
    """Return the tables of a file with our schema, by their names."""
    found: dict[str, Table] = {}
    for _, name, kind, _, without_rowid, _ in db.execute("pragma main.table_list").fetchall():
        if kind == "table" and not name.startswith("sqlite_"):
            info = db.execute(f"pragma table_info({name})").fetchall()
            key = tuple(row[1] for row in sorted(info, key=lambda row: row[5]) if row[5])
            columns = tuple(Column(row[1], row[2].upper(), not (row[3] or row[5]), row[4]) for row in info)
            found[name] = Table(name, not without_rowid, key, columns)
    return found


class Pages:
    """The pages of a copy of a database, which is changed by reading them; `free` are those that are not in use, as far as is known."""

    def __init__(self, image: Path, page_size: int, wanted: Iterable[Table]) -> None:
        """Prepare to find rows of the tables that are wanted."""
        self._size = page_size
        self._handle = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self.count = os.fstat(self._handle).st_size // page_size
        self.free = self._find_free()
        wanted = list(wanted)
        empty = cast("Any", apsw.Connection(":memory:"))
        empty.execute(f"pragma page_size={page_size}; pragma user_version=1")
        first = bytearray(empty.serialize("main"))
        first[28:32] = self.count.to_bytes(4, "big")  # of which all but the first are in no tree
        os.pwrite(self._handle, first, 0)
        os.ftruncate(self._handle, self.count * page_size)
        self._db = cast("Database", apsw.Connection(str(image)))
        self._db.execute("pragma journal_mode=off").fetchall()
        self._db.execute(";".join(table.probe for table in wanted))
        self._roots = dict(self._db.execute("select name, rootpage from sqlite_schema where rootpage > 0").fetchall())
        self._selects: dict[bool, list[Select]] = {True: [], False: []}
        for table in wanted:
            self._selects[table.has_rowid].append(table.select({column.name for column in table.columns}, probed=True))
        (self._changes,) = struct.unpack(">I", os.pread(self._handle, 4, 24))

    def close(self) -> None:
        """Close the copy."""
        self._db.close()
        os.close(self._handle)

    def rows(self, number: int) -> dict[str, list[Row]]:
        """Return the rows that begin on a page, for each table that they can be of."""
        page = self._page(number)
        kind, count = page[0], int.from_bytes(page[3:5], "big")
        if kind in (_TABLE_LEAF, _INDEX_LEAF):
            try:
                return self._read(page, kind)
            except apsw.Error:
                pass
        elif kind != _INDEX_INTERIOR:
            return {}
        found: dict[str, list[Row]] = {}
        first, skipped = (12, 4) if kind == _INDEX_INTERIOR else (8, 0)  # of a row above others is left out which page is below it
        for at in range(first, min(first + 2 * count, self._size - 1), 2):
            place = int.from_bytes(page[at : at + 2], "big") + skipped
            alone = struct.pack(">BHHHBH", kind | _INDEX_LEAF & 0x08, 0, 1, place % 65536, 0, place % 65536)
            try:
                one = self._read(alone + page[len(alone) :], kind)
            except apsw.Error:
                continue
            for table, rows in one.items():
                found.setdefault(table, []).extend(rows)
        return found

    def _read(self, leaf: bytes, kind: int) -> dict[str, list[Row]]:
        selects = self._selects[kind == _TABLE_LEAF]
        for select in selects:
            os.pwrite(self._handle, leaf, (self._roots[select.table] - 1) * self._size)
        self._changes += 1
        os.pwrite(self._handle, struct.pack(">I", self._changes % 2**32), 24)  # so that SQLite reads them anew
        self._db.execute("begin")
        try:
            return {select.table: rows for select in selects if (rows := [row for row in select.rows(self._db) if row is not None])}
        finally:
            self._db.execute("rollback")

    def _page(self, number: int) -> bytes:
        return os.pread(self._handle, self._size, (number - 1) * self._size)

    def _find_free(self) -> set[int]:
        """Return the pages that are not in use, as each page says that could be of the list of them.

        What is finished stays on such a page until it is used again, and must not come back.
        """
        found: set[int] = set()
        for number in range(2, self.count + 1):
            page = self._page(number)
            if page[:1] != b"\0":
                continue  # no number of a next page is that large; and pages of trees begin with their kind
            following, count = struct.unpack_from(">II", page)
            if count > self._size // 4 - 2 or following > self.count:
                continue
            listed = struct.unpack_from(f">{count}I", page, 8)
            if len(set(listed)) == count and all(1 < leaf <= self.count for leaf in listed):
                found.update((number, *listed))
        return found
