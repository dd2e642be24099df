"""The checksum before each stored envelope: a disk that changed a byte is noticed before a handler sees it.

SQLite checks its log, not its pages (sqlite.org/cksumvfs.html); a flipped bit inside a row would go unnoticed.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

import msgspec

from chappe.errors import CorruptStorage
from chappe.messages.envelope import Envelope

DAMAGED: Final = "chappe.damaged"  # the type of the envelope that stands in for one that cannot be trusted
_SIZE: Final = 4


def seal(envelope: bytes | memoryview | msgspec.Raw) -> bytes:
    """Return an encoded envelope as it is stored."""
    return crc32(envelope).to_bytes(_SIZE, "little") + envelope


def unseal(stored: bytes) -> memoryview:
    """Return the envelope of a stored one, or raise `CorruptStorage` if it is not what was stored."""
    envelope = memoryview(stored)[_SIZE:]
    if crc32(envelope) != int.from_bytes(stored[:_SIZE], "little"):
        raise CorruptStorage("a stored message is not what was written: the disk changed it")
    return envelope


def unseal_or_stand_in(stored: bytes, message_id: str) -> bytes | memoryview:
    """Return the envelope of a stored one, or one of type `chappe.damaged` that holds the bytes that were found."""
    try:
        return unseal(stored)
    except CorruptStorage:
        return stand_in(stored, message_id)


def stand_in(stored: bytes, message_id: str) -> bytes:
    """Return an encoded envelope that says that the real one is damaged, with the bytes that were found."""
    return msgspec.msgpack.encode(Envelope(message_id, DAMAGED, stored, content_type="application/octet-stream"))
