"""The rows of the archive in the file: the events of one stand one behind the other, each sealed by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from chappe.engines.archiving import ROOM, runs
from chappe.engines.file.database import Database
from chappe.engines.file.wire import Posted

INSERT: Final = """insert into archive (seq, at, exchange, routing_key, message_id, envelope, has_file, events)
    values (?, ?, ?, ?, ?, ?, ?, ?)"""
_heads: Final = msgspec.json.Decoder(list[tuple[str, str, int]]).decode

Archived = tuple[Posted, bytes]  # a publication and its sealed envelope


def end_of(db: Database) -> int:
    """Return the number of the last event that was archived, kept or not."""
    row = db.execute("select seq from sqlite_sequence where name = 'archive'").fetchone()
    return 0 if row is None else int(row[0])


def rows(archived: Sequence[Archived], end: int, at: float) -> list[tuple[Any, ...]]:
    """Return the rows of events that come behind `end`. One whose body is a file has a row of its own, by which the file is found."""
    found: list[tuple[Any, ...]] = []
    for begin, behind in runs((p.exchange, len(sealed) if p.body_file is None else ROOM + 1) for p, sealed in archived):
        run = archived[begin:behind]
        end += len(run)
        first, envelope = run[0]
        heads = None
        if len(run) > 1:
            heads = msgspec.json.encode([(p.routing_key, p.message_id, len(sealed)) for p, sealed in run]).decode()
            envelope = b"".join([sealed for _, sealed in run])
        has_file = None if first.body_file is None else 1
        found.append((end, at, first.exchange, first.routing_key, first.message_id, envelope, has_file, heads))
    return found


def events_of(seq: int, routing_key: str, message_id: str, envelope: bytes, events: str | None) -> list[tuple[int, str, str, bytes]]:
    """Return the `seq`, routing key, message id and sealed envelope of each event of a row.

    Where the disk changed what tells them apart, the row is one event, which is as damaged as its envelope, and the others are lost.
    """
    if events is None:
        return [(seq, routing_key, message_id, envelope)]
    try:
        heads = _heads(events)
    except (msgspec.DecodeError, UnicodeDecodeError):
        heads = []
    if not heads or sum(size for _, _, size in heads) != len(envelope):
        return [(seq, routing_key, message_id, envelope)]
    found: list[tuple[int, str, str, bytes]] = []
    begin, number = 0, seq - len(heads)
    for key, identity, size in heads:
        number += 1
        found.append((number, key, identity, envelope[begin : begin + size]))
        begin += size
    return found
