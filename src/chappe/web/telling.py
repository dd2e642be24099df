"""Events as clients hear them: as JSON, WebSocket frames, server-sent events, and as Durable Streams has them."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

from chappe.archive.follow import LOST, body_of
from chappe.engines.contract.archive import Page, Record
from chappe.messages.codec import encode_json
from chappe.web.push import sse_chunk, text_frame

POSITION: Final = "chappe.position"  # the type of what tells a position without an event
_INTERVAL: Final = 20.0  # seconds of one cursor


class Said(NamedTuple):
    """An event as clients hear it."""

    seq: int
    key: str
    text: bytes
    id: str = ""  # of the message; what tells a position is none


def said_of(record: Record) -> Said:
    """Return an event as the JSON that all clients are sent; a body that is no JSON is told in Base64."""
    envelope, body = record.envelope, body_of(record.envelope)
    event: dict[str, Any] = {
        "seq": record.seq, "at": record.at, "exchange": record.exchange, "key": record.routing_key, "id": envelope.id,
        "type": envelope.type, "body": body,
    }  # fmt: skip
    try:
        text = encode_json(event | {"base64": True} if isinstance(body, bytes) else event)
    except (TypeError, ValueError, OverflowError, RecursionError):
        text = encode_json(event | {"body": envelope.body, "base64": True})
    return Said(record.seq, record.routing_key, text, envelope.id)


def lost_of(page: Page, loss: int) -> Said:
    """Return what is said first where history was lost."""
    seq = page.records[0].seq - 1 if page.records else page.cursor
    return Said(seq, LOST, encode_json({"seq": seq, "type": LOST, "lost": loss}))


def position_of(seq: int) -> Said:
    """Return what tells a position."""
    return Said(seq, POSITION, encode_json({"seq": seq, "type": POSITION}))


def as_frames(said: list[Said]) -> bytes:
    """Return events as WebSocket frames."""
    return b"".join([text_frame(one.text) for one in said])


def as_events(said: list[Said]) -> bytes:
    """Return events as server-sent events."""
    return b"".join([b"id: %d\ndata: %b\n\n" % (one.seq, one.text) for one in said])


def as_chunk(said: list[Said]) -> bytes:
    """Return events as a chunk with server-sent events."""
    return sse_chunk(as_events(said))


def offset_of(seq: int) -> str:
    """Return a position as a text that sorts as positions do."""
    return f"{seq:018d}"


def cursor_of(told: str = "") -> str:
    """Return the interval that is now, or one behind what a client was told before: no cache has an answer to that yet."""
    now = int(time.time() / _INTERVAL)
    return str(max(now, int(told) + 1) if told.isdecimal() and len(told) < 16 else now)


def as_durable_events(said: list[Said], cursor: str, end: int | None = None) -> bytes:
    """Return events as Durable Streams has them, each with the position behind it; `end` is that of the last one if there are no more."""
    events = [one for one in said if one.key != POSITION]
    data = [b"event: data\ndata:[%b]\n\n" % one.text for one in events] or [b""]
    behind = [(one.seq, False) for one in events]
    if end is not None:
        behind[-1:] = [(end, True)]
    return b"".join(text + _control(seq, cursor, is_end=is_end) for text, (seq, is_end) in zip(data, behind, strict=False))


def as_durable_chunk(said: list[Said]) -> bytes:
    """Return the last events that there are as a chunk with the events of Durable Streams."""
    return sse_chunk(as_durable_events(said, cursor_of(), said[-1].seq))


def _control(seq: int, cursor: str, *, is_end: bool) -> bytes:
    control: dict[str, Any] = {"streamNextOffset": offset_of(seq), "streamCursor": cursor}
    return b"event: control\ndata:%b\n\n" % encode_json(control | {"upToDate": True} if is_end else control)
