"""A delivery read from the bytes of its frames (AMQP 0-9-1, §4.2.3): by pika's objects that took three quarters of a worker's time."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

_FRAME: Final = struct.Struct(">BHI")
_TAG: Final = struct.Struct(">QB")
_CONTENT: Final = struct.Struct(">HHQH")  # class, weight, size of the body, and which properties there are
_LONG, _LONGLONG, _SIGNED, _INTEGER = struct.Struct(">I"), struct.Struct(">Q"), struct.Struct(">q"), struct.Struct(">i")
_HEADER_FRAME, _BODY_FRAME = 2, 3
_AROUND: Final = 8  # bytes of a frame that are not its payload
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_ACK: Final = b"\x00\x3c\x00\x50"
_TEXT, _SIGNED_64, _SIGNED_32, _TRUTH = b"SlIt"
_REST: Final = 0b111  # user id, the reserved one, and a second word of flags: nobody sends them


class Properties(Struct, gc=False):
    """The properties of a message that was received, as far as anybody asks for them."""

    content_type: Any = None
    headers: dict[str, Any] | None = None
    correlation_id: Any = None
    reply_to: Any = None
    message_id: Any = None
    timestamp: Any = None
    type: Any = None
    app_id: Any = None


class Message(Struct, frozen=True, gc=False):
    """What a consumer is lent; what a foreign publisher wrote that is no UTF-8 is bytes in the properties, as pika decodes them."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Any  # `Properties`, or pika's
    body: bytes


class NotRead(Exception):
    """It is another method, or has something in it that is rare: pika reads it."""


def complete(data: bytes, start: int) -> int:
    """Return where the frame that begins here ends, or 0 if its end has not come yet."""
    if len(data) - start < _AROUND:
        return 0
    end = start + _AROUND + _FRAME.unpack_from(data, start)[2]
    return end if end <= len(data) else 0


def is_delivery(data: bytes, start: int) -> bool:
    """Tell whether the frame that begins here begins a delivery."""
    return data[start] == 1 and data.startswith(_DELIVER, start + 7)


def confirmation(data: bytes, start: int) -> tuple[int, bool] | None:
    """Return the tag of a confirmation, and whether it is for all up to it; nothing if the frame is another one."""
    if data[start] != 1 or not data.startswith(_ACK, start + 7):
        return None
    tag, bits = _TAG.unpack_from(data, start + 11)
    return tag, bool(bits & 1)


def delivery(data: bytes, start: int, end: int) -> tuple[int, str, Message] | None:
    """Return where the delivery ends whose first frame is here, its consumer's tag and the message; nothing if it has not come as a whole.

    Raises `NotRead`.
    """
    try:
        at = start + 12 + data[start + 11]
        consumer = _word(data[start + 12 : at])
        tag, again = _TAG.unpack_from(data, at)
        at += 10
        after = at + data[at - 1]
        exchange = _word(data[at:after])
        routing_key = _word(data[after + 1 : after + 1 + data[after]])
        header_end = complete(data, end)
        if not header_end:
            return None
        if data[end] != _HEADER_FRAME:
            raise NotRead
        _, _, length, flags = _CONTENT.unpack_from(data, end + 7)
        if len(data) - header_end < length:
            return None
        pieces: list[bytes] = []
        place, left = header_end, length
        while left > 0:
            after = complete(data, place)
            if not after:
                return None
            if data[place] != _BODY_FRAME:
                raise NotRead
            pieces.append(data[place + 7 : after - 1])
            left -= after - place - _AROUND
            place = after
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        properties = _properties(data, end + 21, flags)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise NotRead from None
    return place, consumer, Message(tag, bool(again & 1), exchange, routing_key, properties, body)


def _properties(data: bytes, at: int, flags: int) -> Properties:  # noqa: C901 - one step for each property, as they come
    found = Properties()
    if flags & _REST:
        raise NotRead
    if flags & 1 << 15:
        found.content_type, at = _short(data, at)
    if flags & 1 << 14:
        at += 1 + data[at]  # the encoding
    if flags & 1 << 13:
        found.headers, at = _table(data, at)
    if flags & 1 << 12:
        at += 1  # the delivery mode
    if flags & 1 << 11:
        at += 1  # the priority
    if flags & 1 << 10:
        found.correlation_id, at = _short(data, at)
    if flags & 1 << 9:
        found.reply_to, at = _short(data, at)
    if flags & 1 << 8:
        at += 1 + data[at]  # the expiration
    if flags & 1 << 7:
        found.message_id, at = _short(data, at)
    if flags & 1 << 6:
        found.timestamp = _LONGLONG.unpack_from(data, at)[0]
        at += 8
    if flags & 1 << 5:
        after = at + 1 + data[at]
        found.type = _word(data[at + 1 : after])
        at = after
    if flags & 1 << 4:
        at += 1 + data[at]  # the user
    if flags & 1 << 3:
        found.app_id, at = _short(data, at)
    return found


def _short(data: bytes, at: int) -> tuple[str, int]:
    after = at + 1 + data[at]
    return data[at + 1 : after].decode(), after


def _table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    end = at + 4 + _LONG.unpack_from(data, at)[0]
    at += 4
    table: dict[str, Any] = {}
    while at < end:
        after = at + 1 + data[at]
        name, kind = _word(data[at + 1 : after]), data[after]
        at = after + 1
        if kind == _TEXT:
            after = at + 4 + _LONG.unpack_from(data, at)[0]
            table[name] = data[at + 4 : after].decode()
            at = after
        elif kind == _SIGNED_64:
            table[name] = _SIGNED.unpack_from(data, at)[0]
            at += 8
        elif kind == _SIGNED_32:
            table[name] = _INTEGER.unpack_from(data, at)[0]
            at += 4
        elif kind == _TRUTH:
            table[name] = bool(data[at])
            at += 1
        else:
            raise NotRead
    return table, at


@lru_cache(maxsize=4096)
def _word(said: bytes) -> str:
    """Return a name that comes again and again."""
    return said.decode()
