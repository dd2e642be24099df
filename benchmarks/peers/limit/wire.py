"""How the limit's processes talk: frames of MessagePack, each after its length, over a Unix socket in the folder."""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

SOCKET: Final = "limit.sock"
PUBLISH: Final = 0
CLAIM: Final = 1
BATCH: Final = 100

_LENGTH: Final = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def frame(something: Any) -> bytes:
    """Write a frame."""
    body = _encode(something)
    return _LENGTH.pack(len(body)) + body


def frames(buffer: bytearray) -> list[Any]:
    """Take all whole frames off a buffer."""
    found: list[Any] = []
    place = 0
    while len(buffer) - place >= 4:
        (length,) = _LENGTH.unpack_from(buffer, place)
        if len(buffer) - place - 4 < length:
            break
        found.append(_decode(bytes(buffer[place + 4 : place + 4 + length])))
        place += 4 + length
    del buffer[:place]
    return found
