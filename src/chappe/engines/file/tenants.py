"""Whose share of the workers' time a stored message counts against: its envelope says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from chappe.engines.dispatch import FAIR
from chappe.engines.file.queues import QueueState
from chappe.engines.file.seal import unseal
from chappe.errors import CorruptStorage
from chappe.messages.envelope import TENANT, Envelope

_decode: Final = msgspec.msgpack.Decoder(Envelope).decode


def tenant_of(queue: QueueState, flags: int, stored: bytes, weights: Mapping[str, float]) -> tuple[int, str | None]:
    """Return the flags and the tenant with which a message is ready in a queue; without any in it nobody has a tenant."""
    if flags & FAIR:
        queue.shares(weights)
    elif queue.line.shares is None:
        return flags, None
    return flags | FAIR, named(stored)


def named(stored: bytes) -> str:
    """Return the tenant that an envelope names; one without, and what the disk changed, have none with a name."""
    try:
        return _decode(unseal(stored)).headers.get(TENANT, "")
    except (CorruptStorage, msgspec.MsgspecError):
        return ""
