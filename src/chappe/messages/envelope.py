"""What surrounds a message on its way: the envelope, and how it is to be published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

NO_HEADERS: Final[Mapping[str, str]] = {}
TENANT: Final = "chappe-tenant"  # the header that says whose share of the workers' time a message counts against


class Envelope(Struct, frozen=True, array_like=True, gc=False):
    """One message on the wire; a retry never changes it.

    Format 1. If you add a field: append it with a default, so that stored envelopes still decode.
    """

    id: str
    type: str
    body: bytes
    timestamp: float = 0.0
    content_type: str = "application/json"
    headers: Mapping[str, str] = NO_HEADERS
    correlation_id: str | None = None
    reply_to: str | None = None


class Options(Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """The less common wishes of a publication.

    key: at most one message of it runs at a time, in the order of publishing. merges: at most one message of
    the key is pending; a second is answered `Pending`, to be merged by the sender. replaces: the version of
    the pending message that this one is merged from. unique, unique_for: see `capabilities.Unique`.
    idempotency_key, fingerprint: the same key with the same fingerprint is stored once. tracked: its state
    and result can be asked for by id. tenant: whose share of the workers' time it counts against.
    """

    key: str | None = None
    merges: bool = False
    replaces: int | None = None
    unique: str | None = None
    unique_for: float | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    tracked: bool = False
    merged_ids: tuple[str, ...] = ()
    tenant: str | None = None


class Publication(Struct, frozen=True, array_like=True, gc=False):
    """An envelope and where it goes: the default exchange `""` routes by the queue's name."""

    envelope: Envelope
    routing_key: str
    exchange: str = ""
    priority: int = 0
    delay: float = 0.0
    options: Options | None = None


class Receipt(Struct, frozen=True, array_like=True):
    """What became of one publication.

    `outcome` is *stored*; *duplicate* (a unique or idempotency key was taken: `id` is the first message's);
    *merged* (into the pending message `id`); or *pending*: not stored, because `pending` has the same key
    at `version`: merge with it and publish again with `replaces=version`. Without a `pending`, the one that was
    merged with has begun to run meanwhile: publish the original again. What merges is *stored* or *merged* at a `version`, too.
    """

    id: str
    outcome: str = "stored"
    version: int | None = None
    pending: Envelope | None = None


def changed(options: Options | None, **changes: Any) -> Options:
    """Return the options with some of them changed."""
    return msgspec.structs.replace(options or Options(), **changes)


def sent_at(message_id: str) -> float | None:
    """Return when an id was made, in seconds since the epoch, if it begins with a UUIDv7: those of other programs may be anything."""
    digits = message_id[:36].replace("-", "")
    try:
        return int(digits[:12], 16) / 1000 if len(digits) == 32 and digits[12] == "7" else None
    except ValueError:
        return None
