"""A publication in the making, and what its sender may ask for."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from typing import Any, Final, cast

import msgspec
import uuid_utils

from chappe.bounds import FURTHEST
from chappe.errors import InvalidMessage
from chappe.messages.envelope import Options, changed
from chappe.messages.message import Message, writer_of

_EMPTY: Final[tuple[Any, ...]] = (list, dict, set, frozenset)


class Draft(msgspec.Struct):
    """A publication in the making: middleware on the sending side changes it."""

    id: str
    headers: dict[str, str] | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    delay: float | None = None
    options: Options | None = None


def new_id() -> str:
    """Return a new message id: a UUIDv7, so that ids sort by time (RFC 9562 §5.7)."""
    return str(uuid_utils.uuid7())


def listed(message: Any) -> tuple[list[Message], bool]:
    """Return what is to be sent as a list, and whether it was a sequence; raises `InvalidMessage` for what is no message."""
    if isinstance(message, Message):  # also one that can be iterated over
        return [message], False
    many = isinstance(message, Iterable) and not isinstance(message, type | str | bytes)
    given: list[Any] = list(cast("Iterable[Any]", message)) if many else [message]
    for one in given:  # a class in place of a message is the usual slip
        if not isinstance(one, Message):
            is_class = isinstance(one, type) and issubclass(one, Message)
            hint = f"send one of it: {one.__name__}(…)" if is_class else "send commands and events, one or a sequence"
            raise InvalidMessage("message", {"$": f"{one!r} is no message; {hint}"})
    return given, many


def draft_of(message: Message, *, delay: float | None, priority: int | None, idempotency_key: str | None) -> Draft:
    """Return the draft of a message with what its sender asked for; raises `InvalidMessage` for what cannot be kept."""
    name = message.__spec__.name
    if delay is not None and not (isinstance(delay, int | float) and 0 <= delay <= FURTHEST):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidMessage(name, {"delay": f"must be within 0 and {FURTHEST:g} seconds, not {delay}"})
    if priority is not None and not (isinstance(priority, int) and -(2**31) <= priority < 2**31):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidMessage(name, {"priority": f"must be a whole number of 32 bits, not {priority}"})
    if idempotency_key is not None and not _is_key(idempotency_key):
        raise InvalidMessage(name, {"idempotency_key": "must be 1 to 255 characters, without control characters"})
    if idempotency_key is not None and message.__spec__.inline:
        raise InvalidMessage(name, {"idempotency_key": "is not kept for an inline command"})
    draft = Draft(new_id(), priority=priority, delay=delay)
    if idempotency_key is not None:
        draft.options = changed(None, idempotency_key=f"{name}:{idempotency_key}", fingerprint=fingerprint(message))
    return draft


def _is_key(key: object) -> bool:
    return (
        isinstance(key, str) and 0 < len(key) <= 255 and not any(c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" for c in key)
    )


def fingerprint(message: Message) -> str:
    """Return what must be equal for two requests with one idempotency key to be the same."""
    try:
        given = _given(message)
        body = msgspec.json.encode(given, order="sorted")
    except (TypeError, ValueError, OverflowError, RecursionError):
        _ = writer_of(type(message))(message)  # it says what cannot be written, and where
        raise
    return hashlib.sha256(body).hexdigest()


def fingerprint_of_body(body: bytes) -> str:
    """Return the same of JSON that somebody sent: of what stands there, since another release may decode it to something else."""
    with contextlib.suppress(ValueError, OverflowError):  # a number that only a text can hold
        body = msgspec.json.encode(msgspec.json.decode(body), order="sorted")
    return hashlib.sha256(body).hexdigest()


def _given(value: Any) -> Any:
    """Return a value without the fields that have their defaults: a release may add such a field between a request and its repetition."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        pairs = [(field, getattr(value, field.name)) for field in msgspec.structs.fields(value)]
        tag = {config.tag_field: config.tag} if config.tag_field else {}
        return tag | {field.encode_name: _given(found) for field, found in pairs if found != _default_of(field)}
    if isinstance(value, list | tuple):
        return [_given(item) for item in cast("Iterable[Any]", value)]
    if isinstance(value, dict):
        return {key: _given(item) for key, item in cast("dict[Any, Any]", value).items()}
    return value


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    factory: Any = field.default_factory
    return factory() if factory in _EMPTY else field.default
