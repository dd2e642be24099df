"""What passes between a broker that keeps only plain messages and the one that keeps all others: strays, and events to relay."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from chappe.messages.envelope import Envelope, Publication

# A delivery of the broker of plain messages has this bit in its tag, then the mark by which its message is known again, then a number.
STRAYS: Final = 1 << 62
MARK: Final = 28  # bits of the number

_encode: Final = msgspec.msgpack.Encoder().encode
unwrapped: Final = msgspec.msgpack.Decoder(Publication).decode


class Stray(Protocol):
    """A plain message as it was lent under a tag; without a queue it came through a temporary one, and is never kept elsewhere."""

    @property
    def tag(self) -> int: ...
    @property
    def queue(self) -> str | None: ...
    @property
    def envelope(self) -> Envelope: ...


def wrapped(p: Publication) -> Envelope:
    """Return an envelope that also says where a publication goes; `unwrapped` reads its body."""
    whole = Publication(p.envelope, p.routing_key, p.exchange)
    return Envelope(p.envelope.id, p.envelope.type, _encode(whole), content_type="application/msgpack")
