"""Reads rows from the single pages of an SQLite file, where the trees above them are gone (sqlite.org/fileformat2.html).

SQLite finds a row only through all pages above it. Here each page stands for itself: what it holds is told by its shape.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

Value = int | float | str | bytes | None

TABLE_LEAF: Final = 0x0D
INDEX_LEAF: Final = 0x0A
INDEX_INTERIOR: Final = 0x02
_KINDS: Final = frozenset({TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR})
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_LARGEST: Final = 256 * 1024 * 1024
_HEADER: Final = struct.Struct(">BHHHB")


class Cell(NamedTuple):
    """One row as it lies on a page: `rowid` is of a table that has them, else None."""

    page: int
    rowid: int | None
    values: tuple[Value, ...]


class Broken(Exception):
    """What is there is no row."""


class Image:
    """A database file whose pages are read one by one."""

    def __init__(self, handle: int, page_size: int, reserved: int = 0) -> None:
        self._handle = handle
        self._size = page_size
        self._usable = page_size - reserved
        self.pages = os.fstat(handle).st_size // page_size

    def page(self, number: int) -> bytes:
        """Return the bytes of a page; pages are numbered from 1."""
        return os.pread(self._handle, self._size, (number - 1) * self._size)

    def cells(self, number: int) -> Iterator[Cell | Broken]:
        """Return every row that begins on a page, and what is broken of it; nothing for a page of another kind."""
        page = self.page(number)
        at = 100 if number == 1 else 0
        if len(page) < self._size or page[at] not in _KINDS:
            return
        kind, _, count, _, _ = _HEADER.unpack_from(page, at)
        first = at + (12 if kind == INDEX_INTERIOR else 8)
        for index in range(min(count, (self._usable - first) // 2)):
            place = int.from_bytes(page[first + 2 * index : first + 2 * index + 2], "big")
            try:
                yield self._cell(number, page, kind, place)
            except (Broken, IndexError, struct.error, UnicodeDecodeError) as error:
                yield Broken(f"page {number}, row {index + 1}: {error}")

    def _cell(self, number: int, page: bytes, kind: int, at: int) -> Cell:
        if kind == INDEX_INTERIOR:
            at += 4
        length, at = _varint(page, at)
        rowid = None
        if kind == TABLE_LEAF:
            rowid, at = _varint(page, at)
            rowid -= (rowid >> 63) << 64
        if not 0 < length < _LARGEST:
            raise Broken(f"{length} bytes cannot be its length")
        return Cell(number, rowid, _record(self._payload(page, kind, at, length)))

    def _payload(self, page: bytes, kind: int, at: int, length: int) -> bytes:
        usable = self._usable
        most = usable - 35 if kind == TABLE_LEAF else (usable - 12) * 64 // 255 - 23
        local = length
        if length > most:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (length - least) % (usable - 4)
            if local > most:
                local = least
        if at + local + (4 if local < length else 0) > usable:
            raise Broken("it would reach beyond its page")
        parts = [page[at : at + local]]
        left = length - local
        link = int.from_bytes(page[at + local : at + local + 4], "big") if left else 0
        while left > 0:
            if not 1 < link <= self.pages:
                raise Broken(f"it goes on at page {link}, which does not exist")
            page = self.page(link)
            parts.append(page[4 : 4 + min(left, usable - 4)])
            left -= usable - 4
            link = int.from_bytes(page[:4], "big")
        return b"".join(parts)

    def free(self) -> set[int]:
        """Return the pages that are not in use, as each page says that could be of the list of them.

        What is finished stays on such a page until it is used again, and must not come back.
        """
        found: set[int] = set()
        for number in range(2, self.pages + 1):
            page = self.page(number)
            if page[:1] != b"\0" or len(page) < self._size:
                continue  # no number of a next page is that large; and pages of trees begin with their kind
            following, count = struct.unpack_from(">II", page)
            if count > self._usable // 4 - 2 or following > self.pages:
                continue
            listed = struct.unpack_from(f">{count}I", page, 8)
            if len(set(listed)) == count and all(1 < leaf <= self.pages for leaf in listed):
                found.update((number, *listed))
        return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1


def _record(payload: bytes) -> tuple[Value, ...]:
    end, at = _varint(payload, 0)
    if not at <= end <= len(payload):
        raise Broken("its header is longer than itself")
    kinds: list[int] = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(payload, kind, at)
        values.append(value)
    if at != len(payload):
        raise Broken(f"{len(payload)} bytes are there, its columns have {at}")
    return tuple(values)


def _value(payload: bytes, kind: int, at: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in (10, 11):
        raise Broken("it has a column of no known kind")
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    length, is_text = (kind - 12) >> 1, kind & 1
    data = payload[at : at + length]
    if len(data) < length:
        raise Broken("a column is longer than the row")
    return (data.decode() if is_text else data), at + length


class Layout(NamedTuple):
    """How the rows of one table lie on pages: the names and types of the columns in the order in which they are stored."""

    table: str
    has_rowid: bool
    columns: tuple[tuple[str, str, bool], ...]  # name, type, whether it may be null
    rowid_column: str | None  # the column that is the rowid, and is stored as null
    defaults: dict[str, Value]

    def fit(self, cell: Cell) -> dict[str, Value] | None:
        """Return a cell as a row of this table, or nothing if it cannot be one. Columns added since it was stored have their defaults."""
        stored = len(cell.values)
        if (cell.rowid is not None) != self.has_rowid or stored > len(self.columns):
            return None
        if any(name not in self.defaults for name, _, _ in self.columns[stored:]):
            return None
        row: dict[str, Value] = dict(self.defaults)
        if self.has_rowid and self.rowid_column is None:
            row["rowid"] = cell.rowid
        for (name, kind, nullable), value in zip(self.columns, cell.values, strict=False):
            if name == self.rowid_column:
                if value is not None:
                    return None
                row[name] = cell.rowid
            elif not allows(kind, nullable, value):
                return None
            else:
                row[name] = float(value) if kind == "REAL" and isinstance(value, int) else value
        return row


def allows(kind: str, nullable: bool, value: Any) -> bool:
    """Tell whether a column of a strict table may have a value."""
    if value is None:
        return nullable
    match kind:
        case "INTEGER":
            return isinstance(value, int)
        case "REAL":
            return isinstance(value, int | float)  # a number without a fraction is stored as an integer
        case "TEXT":
            return isinstance(value, str)
        case "BLOB":
            return isinstance(value, bytes)
        case _:
            return True


def layouts(db: Any) -> list[Layout]:
    """Return how the rows of each table lie on pages, from a file with the schema."""
    found: list[Layout] = []
    for _, table, kind, _, without_rowid, _ in db.execute("pragma main.table_list").fetchall():
        if kind != "table" or table.startswith("sqlite_"):
            continue
        info = db.execute(f'pragma table_info("{table}")').fetchall()
        keys = sorted((row for row in info if row[5]), key=lambda row: row[5])
        has_rowid = not without_rowid
        alias = keys[0][1] if has_rowid and len(keys) == 1 and keys[0][2].upper() == "INTEGER" else None
        ordered = info if has_rowid else [*keys, *(row for row in info if not row[5])]
        columns = tuple((row[1], row[2].upper(), not row[3] and not (row[5] and without_rowid)) for row in ordered)
        defaults = {row[1]: db.execute(f"select {row[4]}").fetchone()[0] for row in info if row[4] is not None}
        found.append(Layout(table, has_rowid, columns, alias, defaults))
    return found
