"""What clients and the engine say to each other: length-prefixed MessagePack frames over a Unix socket.

A request is `[serial, verb, arguments]`, an answer `[serial, error or nil, value]`. Both sides send many
frames in one write and never wait for each other's answers, except where a caller does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from chappe import errors
from chappe.bounds import FURTHEST
from chappe.engines.file.bodies import file_of
from chappe.messages.envelope import Envelope, Options

PROTOCOL: Final = 3
# Bytes that are read of a peer at once, into room that is there already: for a protocol that is handed new bytes asyncio asks for 256 KiB
# each time, for which the system gives pages and takes them back, 18 µs of the 200 that the engine needs for a send.
AT_ONCE: Final = 1 << 16
LARGEST_FRAME: Final = 64 * 1024 * 1024
UNASKED: Final = 0  # the serial of what a client is told without a request: the tag of what it holds that somebody cancels
LENT_AT_ONCE: Final = 8 * 1024 * 1024

Moment = Annotated[float, Meta(ge=-FURTHEST, le=253402300799.0)]  # seconds since the epoch, up to the year 9999; NaN is neither
Wait = Annotated[float, Meta(le=FURTHEST)]

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what decoding bytes from outside may raise

_length: Final = struct.Struct(">I")
encode: Final = msgspec.msgpack.Encoder().encode


_readable: Final = msgspec.msgpack.Decoder(Envelope).decode


class Posted(Struct, array_like=True, gc=False):
    """A `Publication` as the engine sees it: the envelope stays closed, but one that nobody could open is refused."""

    envelope: Raw
    routing_key: str
    exchange: str = ""
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    delay: Annotated[float, Meta(le=FURTHEST)] = 0.0
    options: Options | None = None
    message_id: str = ""  # this, the type and the file are the envelope's, whatever is said
    type: str = ""
    body_file: str | None = None

    def __post_init__(self) -> None:
        opened = _readable(self.envelope)
        self.message_id, self.type, self.body_file = opened.id, opened.type, file_of(opened)


class Request(Struct, array_like=True, gc=False):
    """One request of a client."""

    serial: int
    verb: str
    arguments: Raw


class Failure(Struct, array_like=True, gc=False):
    """Why a request was refused: the name of an error of `chappe.errors` and its text."""

    kind: str
    text: str


class Answer(Struct, array_like=True, gc=False):
    """The answer to one request."""

    serial: int
    failure: Failure | None
    value: Raw


decode_request: Final = msgspec.msgpack.Decoder(Request).decode
decode_answer: Final = msgspec.msgpack.Decoder(Answer).decode


def frame(value: Any) -> bytes:
    """Encode one frame."""
    body = encode(value)
    return _length.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 4

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Return every frame that is complete now; raises `ValueError` for one that is too large."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._needed:
            return  # do not look through a large frame each time a piece of it comes
        at, end = 0, len(buffer)
        whole = bytes(buffer)
        self._needed = 4
        while end - at >= 4:
            (length,) = _length.unpack_from(whole, at)
            if length > LARGEST_FRAME:
                raise ValueError(f"a frame of {length} bytes is larger than {LARGEST_FRAME}")
            if end - at - 4 < length:
                self._needed = length + 4
                break
            yield whole[at + 4 : at + 4 + length]
            at += 4 + length
        del buffer[:at]


def failure_of(error: errors.ChappeError) -> Failure:
    """Describe an error for the wire."""
    return Failure(type(error).__name__, str(error))


def error_of(failure: Failure) -> errors.ChappeError:
    """Return the error that a failure describes; only the classes of our own tree can come out."""
    kind = getattr(errors, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.ChappeError)) or kind in (errors.InvalidMessage, errors.CommandFailed):
        return errors.BrokerError(f"{failure.kind}: {failure.text}")
    return kind(failure.text)
