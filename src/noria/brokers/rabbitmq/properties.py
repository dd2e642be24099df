"""An envelope in AMQP's own properties, so that foreign programs read and write them without knowing Noria (design §6)."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Mapping
from typing import Any, Final

from pika import BasicProperties

from noria.errors import Rejected
from noria.messages.envelope import NO_HEADERS, Envelope

_OURS: Final = "noria-"
_TIMESTAMP: Final = "noria-timestamp"  # AMQP's own has whole seconds; text, because pika knows no fractions
TICKET: Final = "noria-ticket"
COPIES: Final = "noria-copies"
_PUBLISHED: Final = "noria-published"
_PERSISTENT: Final = 2
_SHORT: Final = 255  # bytes of a short string (AMQP 0-9-1, §4.2.5.3)


def properties_of(envelope: Envelope, ours: Mapping[str, str] = NO_HEADERS) -> BasicProperties:
    """Give the properties of a message; `ours` are headers of Noria's own. Raises `Rejected` for what AMQP cannot carry."""
    headers: dict[str, Any] = dict(envelope.headers)
    headers[_TIMESTAMP] = repr(envelope.timestamp)
    headers[_PUBLISHED] = repr(time.time())
    headers.update(ours)
    for name, value in (
        ("message_id", envelope.id),
        ("type", envelope.type),
        ("correlation_id", envelope.correlation_id),
        ("reply_to", envelope.reply_to),
    ):
        if value is not None and len(value) > _SHORT // 4 and len(value.encode()) > _SHORT:
            raise Rejected(f"{name} has {len(value.encode())} bytes; AMQP carries at most {_SHORT}")
    return BasicProperties(
        message_id=envelope.id,
        type=envelope.type,
        content_type=envelope.content_type,
        correlation_id=envelope.correlation_id,
        reply_to=envelope.reply_to,
        timestamp=max(0, int(envelope.timestamp)),
        delivery_mode=_PERSISTENT,
        headers=headers,
    )


def envelope_of(properties: Any, body: bytes, *, fallback: str) -> Envelope:
    """Give the envelope of a message that anybody may have published; `fallback` is its type if it has none.

    One without an id is known by what is in it, so that it is the same when it comes again: twins count each other's attempts.
    """
    headers: Mapping[str, Any] = properties.headers or {}
    return Envelope(
        _text(properties.message_id) if properties.message_id else _digest(properties, body),
        _text(properties.type or fallback),
        body,
        _exact(headers, _TIMESTAMP, properties),
        _text(properties.content_type or "application/json"),
        {_text(name): _text(value) for name, value in headers.items() if not _text(name).startswith((_OURS, "x-"))},
        None if properties.correlation_id is None else _text(properties.correlation_id),
        None if properties.reply_to is None else _text(properties.reply_to),
    )


def _digest(properties: Any, body: bytes) -> str:
    told = repr((properties.type, properties.timestamp, properties.correlation_id, properties.app_id)).encode()
    return f"foreign-{hashlib.blake2s(body, key=hashlib.blake2s(told).digest(), digest_size=16).hexdigest()}"


def ticket_in(headers: Mapping[str, Any]) -> str | None:
    """Give the ticket that a message is, if it is one; what only looks like one is a message like others."""
    ticket = headers.get(TICKET)
    return ticket if isinstance(ticket, str) and ticket.partition(":")[0].isascii() and ticket.partition(":")[0].isdigit() else None


def published_at(properties: Any) -> float:
    """Give when a message was published, as far as is known."""
    headers: Mapping[str, Any] = properties.headers or {}
    return _exact(headers, _PUBLISHED, properties)


def _exact(headers: Mapping[str, Any], name: str, properties: Any) -> float:
    """Give a time to the microsecond, if it was one of ours who wrote it."""
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
