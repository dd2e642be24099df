"""Tells whether a row that was read from a damaged file can be believed. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from chappe.bounds import FURTHEST
from chappe.engines.file.queues import Counts
from chappe.engines.file.seal import unseal
from chappe.errors import CorruptStorage
from chappe.messages.envelope import Envelope

Row = Mapping[str, Any]

SEALED: Final = frozenset({"ready", "delayed", "dead", "archive"})
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
    except (CorruptStorage, msgspec.DecodeError, UnicodeDecodeError):
        return None


def find_damage(table: str, row: Row, now: float) -> str | None:
    """Say why a row cannot be believed, or nothing. A damaged envelope is no fault: the engine notices its seal when it is read."""
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} is no number"
    check = _CHECKS.get(table)
    try:
        return None if check is None else check(row, now)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)


def repaired(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without the lesser parts of it that cannot be read, and with the id that its sealed envelope has."""
    if table in SEALED and (envelope := envelope_of(row["envelope"])) is not None:
        row["message_id"] = envelope.id
    if table == "dead" and not _reads(_history, row["history"]):
        row["history"] = msgspec.msgpack.encode([])
    if table == "tracked" and not _reads(_progress, row["progress"]):
        row["progress"] = None
    return row


def _reads(decode: Callable[[bytes], Any], value: bytes | None) -> bool:
    try:
        return value is not None and decode(value) is not None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _placed(row: Row) -> str | None:
    if row["queue"] < 1 or not -(2**31) <= row["rank"] <= 2**31:
        return "its queue or rank cannot be"
    if not 0 <= row["flags"] < _FLAGS:
        return "its flags cannot be"
    return None


def _ready(row: Row, _: float) -> str | None:
    if not 0 < row["id"] < _LARGEST or not 0 <= row["attempt"] < 2**31:
        return "its id or attempt cannot be"
    return _placed(row)


def _delayed(row: Row, now: float) -> str | None:
    return f"its time {row['due']:g} cannot be" if not (0 <= row["due"] <= now + FURTHEST or row.get("budget")) else _ready(row, now)


def _dead(row: Row, now: float) -> str | None:
    if not 0 < row["number"] < _LARGEST or not 0 <= row["attempts"] < 2**31 or not _past(row["died_at"], now):
        return "its number, attempts or time cannot be"
    return _placed(row)


def _archive(row: Row, now: float) -> str | None:
    return None if 0 < row["seq"] < _LARGEST and _past(row["at"], now) else "its number or time cannot be"


def _queue(row: Row, _: float) -> str | None:
    _bindings(row["bindings"])
    return None if row["id"] > 0 and row["name"] else "its id or name cannot be"


def _exchange(row: Row, _: float) -> str | None:
    is_one = row["kind"] in ("topic", "direct", "fanout") and 0 <= row["archive"] <= FURTHEST and row["archive_bytes"] >= 0
    return None if is_one else "its kind or archive cannot be"


def _tally(row: Row, _: float) -> str | None:
    name = row["name"]
    if name.startswith("queue "):
        return None if name[6:].isdecimal() and min(msgspec.structs.astuple(_counts(row["value"]))) >= 0 else "its counts cannot be"
    if name.startswith("follower "):
        return None if msgspec.json.decode(row["value"], type=int) >= 0 else "its position cannot be"
    _serials(row["value"])
    return None if name.startswith("client ") else "it counts nothing known"


def _meta(row: Row, _: float) -> str | None:
    known = row["name"] in ("next_id", "held") and isinstance(row["value"], int) and -1 <= row["value"] < _LARGEST
    return None if known else "its name or value cannot be"


def _tracked(row: Row, now: float) -> str | None:
    if row["state"] not in _STATES or not _past(row["at"], now):
        return "its state or time cannot be"
    if row["result"] is not None:
        msgspec.json.decode(row["result"])
    return None


def _pending(row: Row, _: float) -> str | None:
    return None if min(row["queue"], row["id"], row["version"]) > 0 else "its queue, id or version cannot be"


def _until(row: Row, now: float) -> str | None:
    return None if row["until"] is None or 0 <= row["until"] <= now + FURTHEST else "its time cannot be"


def _soon(column: str) -> Callable[[Row, float], str | None]:
    return lambda row, now: None if 0 <= row[column] <= now + _AHEAD else "its time cannot be"


def _past(moment: float, now: float) -> bool:
    return 0 <= moment <= now + _AHEAD


_CHECKS: Final[dict[str, Callable[[Row, float], str | None]]] = {
    "ready": _ready, "delayed": _delayed, "dead": _dead, "archive": _archive, "queue": _queue, "exchange": _exchange, "tally": _tally,
    "meta": _meta, "tracked": _tracked, "pending": _pending, "unique_key": _until, "idempotency": _until,
    "budget": _soon("tat"), "schedule": _soon("slot"), "desired": _soon("at"),
}  # fmt: skip
