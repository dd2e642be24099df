"""An envelope in AMQP's own properties, so that foreign programs read and write them without knowing Chappe (design §6)."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from pika import BasicProperties

from chappe.engines.rabbitmq.frames import short
from chappe.errors import Rejected
from chappe.messages.envelope import NO_HEADERS, Envelope, Publication

# Headers that are not the publisher's: Chappe's own, and those that RabbitMQ adds.
_OURS: Final = (
    "chappe-",
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-stream-",
    "x-received-from",
)  # RabbitMQ's, too
_TIMESTAMP: Final = "chappe-timestamp"  # AMQP's own has whole seconds; text, because pika knows no fractions
COPIES: Final = "chappe-copies"  # our queues have what is relayed already
_PUBLISHED: Final = "chappe-published"
_PERSISTENT: Final = b"\x02"
_TEXT: Final = b"S"  # the kind of a header's value
_LONG, _TIME, _SIGNS = struct.Struct(">I"), struct.Struct(">Q"), struct.Struct(">H")
_USUAL: Final = (  # what each of our messages has, in the order in which it is written
    BasicProperties.FLAG_CONTENT_TYPE
    | BasicProperties.FLAG_HEADERS
    | BasicProperties.FLAG_DELIVERY_MODE
    | BasicProperties.FLAG_MESSAGE_ID
    | BasicProperties.FLAG_TIMESTAMP
    | BasicProperties.FLAG_TYPE
)


def properties_of(envelope: Envelope, ours: Mapping[str, str] = NO_HEADERS) -> bytes:
    """Return the properties of a message as they go over the wire; `ours` are headers of Chappe's own.

    Raises `Rejected` for what AMQP cannot carry.
    """
    flags, correlation_id, reply_to = _USUAL, envelope.correlation_id, envelope.reply_to
    try:
        stamp, now = repr(envelope.timestamp).encode(), repr(time.time()).encode()
        headers = b"".join((_STAMPED, _LONG.pack(len(stamp)), stamp, _PUBLISHED_AT, _LONG.pack(len(now)), now))
        if envelope.headers or ours:
            headers += b"".join([_entry(name, value) for table in (envelope.headers, ours) for name, value in table.items()])
        asked = b""
        if correlation_id is not None:
            flags |= BasicProperties.FLAG_CORRELATION_ID
            asked = short(correlation_id)
        if reply_to is not None:
            flags |= BasicProperties.FLAG_REPLY_TO
            asked += short(reply_to)
        second = _TIME.pack(max(0, int(envelope.timestamp)))
        return b"".join(
            (_SIGNS.pack(flags), _short(envelope.content_type), _LONG.pack(len(headers)), headers, _PERSISTENT, asked,
             short(envelope.id), second, _short(envelope.type))
        )  # fmt: skip
    except ValueError as error:  # this is what a text that is no UTF-8 raises, too
        raise Rejected(f"{envelope.type[:60]} {envelope.id[:60]} cannot be sent by AMQP: {error}") from None


def refuse_unencodable(publications: Sequence[Publication]) -> None:
    """Raise `Rejected` for what AMQP cannot carry: what is stored must be sayable later."""
    for publication in publications:
        properties_of(publication.envelope)


def _entry(name: str, value: str) -> bytes:
    encoded = value.encode()
    return b"".join((short(name), _TEXT, _LONG.pack(len(encoded)), encoded))


_short: Final = lru_cache(maxsize=1024)(short)  # of what many messages say
_STAMPED: Final = short(_TIMESTAMP) + _TEXT
_PUBLISHED_AT: Final = short(_PUBLISHED) + _TEXT


def envelope_of(properties: Any, body: bytes, *, fallback: str) -> Envelope:
    """Return the envelope of a message that anybody may have published; `fallback` is its type if it has none.

    One without an id is known by what is in it, so that it is the same when it comes again: twins count each other's attempts.
    """
    headers: Mapping[str, Any] = properties.headers or {}
    return Envelope(
        _text(properties.message_id) if properties.message_id else _digest(properties, body),
        _text(properties.type or fallback),
        body,
        _exact(headers, _TIMESTAMP, properties),
        _text(properties.content_type or "application/json"),
        {_text(name): _text(value) for name, value in headers.items() if not _text(name).startswith(_OURS)},
        None if properties.correlation_id is None else _text(properties.correlation_id),
        None if properties.reply_to is None else _text(properties.reply_to),
    )


def _digest(properties: Any, body: bytes) -> str:
    told = repr((properties.type, properties.timestamp, properties.correlation_id, properties.app_id)).encode()
    return f"foreign-{hashlib.blake2s(body, key=hashlib.blake2s(told).digest(), digest_size=16).hexdigest()}"


def published_at(properties: Any) -> float:
    """Return when a message was published, as far as is known."""
    headers: Mapping[str, Any] = properties.headers or {}
    return _exact(headers, _PUBLISHED, properties)


def _exact(headers: Mapping[str, Any], name: str, properties: Any) -> float:
    """Return a time to the microsecond, if it was one of ours who wrote it."""
    try:
        return float(headers[name])
    except (KeyError, TypeError, ValueError):
        return _seconds(properties.timestamp)


def _seconds(timestamp: object) -> float:
    if isinstance(timestamp, dt.datetime):
        return timestamp.replace(tzinfo=timestamp.tzinfo or dt.UTC).timestamp()
    return float(timestamp) if isinstance(timestamp, int | float) else 0.0


def _text(value: object) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace") if isinstance(value, bytes) else str(value)
