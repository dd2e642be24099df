"""Tells whether a row that was read from a damaged file can be believed. Pure."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec

from chappe.bounds import FURTHEST
from chappe.engines.file.queues import Counts
from chappe.engines.file.seal import unseal
from chappe.errors import CorruptStorage
from chappe.messages.envelope import Envelope

Row = dict[str, Any]

SEALED: Final = frozenset({"ready", "delayed", "dead", "archive"})
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)
_STATES: Final = frozenset({"ready", "delayed", "running", "done", "dead"})
_FLAGS: Final = 1 << 16  # more than there are: a newer Chappe may know another
_LARGEST: Final = 2**62
_AHEAD: Final = 366 * 86400.0

_envelope: Final = msgspec.msgpack.Decoder(Envelope).decode
_history: Final = msgspec.msgpack.Decoder(list[tuple[float, int, str]]).decode
_progress: Final = msgspec.msgpack.Decoder(tuple[int, int, str]).decode
_bindings: Final = msgspec.json.Decoder(list[tuple[str, str]]).decode
_counts: Final = msgspec.json.Decoder(Counts).decode
_serials: Final = msgspec.json.Decoder(tuple[int, list[int], float]).decode


def envelope_of(stored: bytes) -> Envelope | None:
    """Return a stored envelope if it is the one that was written."""
    try:
        return _envelope(unseal(stored))
    except (CorruptStorage, *_UNREADABLE):
        return None


def is_credible(table: str, row: Row, now: float) -> bool:
    """Tell whether a row can be what was written. A damaged envelope can: the engine notices its seal when it is read."""
    if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
        return False
    check = _CHECKS.get(table)
    try:
        return check is None or bool(check(row, now))
    except (*_UNREADABLE, ValueError):
        return False


def repaired(table: str, row: Row, now: float) -> Row:
    """Return a row without those lesser parts that cannot be, and with the id that its sealed envelope has."""
    if table in SEALED and (envelope := envelope_of(row["envelope"])) is not None:
        row["message_id"] = envelope.id
    if table == "delayed" and not (row.get("budget") or 0 <= row["due"] <= now + FURTHEST):
        row["due"] = now
    if table == "dead" and not _reads(_history, row["history"]):
        row["history"] = msgspec.msgpack.encode([])
    if table == "tracked" and not _reads(_progress, row["progress"]):
        row["progress"] = None
    return row


def has_ids(table: str, row: Row) -> bool:
    """Tell whether the message of a mark or a unique key is one: nothing else tells the two apart where their pages are all there is."""
    try:
        return table not in ("mark", "unique_key") or str(uuid.UUID(row["message_id"])) == row["message_id"]
    except ValueError:
        return False


def _reads(decode: Callable[[bytes], Any], value: bytes | None) -> bool:
    try:
        return value is not None and decode(value) is not None
    except _UNREADABLE:
        return False


def _waits(row: Row, _: float = 0.0) -> bool:
    return 0 < row["id"] < _LARGEST and 0 <= row["attempt"] < 2**31 and _has_place(row)


def _has_place(row: Row) -> bool:
    return row["queue"] > 0 and -(2**31) <= row["rank"] <= 2**31 and 0 <= row["flags"] < _FLAGS


def _counts_what_is_known(row: Row, _: float) -> bool:
    kind, _, name = row["name"].partition(" ")
    if kind == "queue":
        return name.isdecimal() and min(msgspec.structs.astuple(_counts(row["value"]))) >= 0
    if kind == "follower":
        return msgspec.json.decode(row["value"], type=int) >= 0
    return kind == "client" and bool(_serials(row["value"]))


def _is_exchange(row: Row, _: float) -> bool:
    kept = 0 <= row["archive"] <= FURTHEST and row.get("archive_bytes", 0) >= 0
    return kept and row["kind"] in ("topic", "direct", "fanout")


def _is_kept(row: Row, now: float) -> bool:
    return row["until"] is None or 0 <= row["until"] <= now + FURTHEST


def _is_result(row: Row, now: float) -> bool:
    if row["result"] is not None:
        msgspec.json.decode(row["result"])
    return row["state"] in _STATES and _is_soon(row["at"], now)


def _is_soon(moment: float, now: float) -> bool:
    return 0 <= moment <= now + _AHEAD


_CHECKS: Final[dict[str, Callable[[Row, float], bool]]] = {
    "ready": _waits, "delayed": _waits, "tally": _counts_what_is_known, "exchange": _is_exchange, "tracked": _is_result,
    "unique_key": _is_kept, "idempotency": _is_kept,
    "dead": lambda row, now: (
        0 < row["number"] < _LARGEST and 0 <= row["attempts"] < 2**31 and _is_soon(row["died_at"], now) and _has_place(row)
    ),
    "archive": lambda row, now: 0 < row["seq"] < _LARGEST and _is_soon(row["at"], now),
    "queue": lambda row, _: row["id"] > 0 and row["name"] and _reads(_bindings, row["bindings"]),
    "meta": lambda row, _: row["name"] in ("next_id", "held") and isinstance(row["value"], int) and -1 <= row["value"] < _LARGEST,
    "pending": lambda row, _: min(row["queue"], row["id"], row["version"]) > 0,
    "budget": lambda row, now: _is_soon(row["tat"], now),
    "schedule": lambda row, now: _is_soon(row["slot"], now),
    "desired": lambda row, now: _is_soon(row["at"], now),
}  # fmt: skip
