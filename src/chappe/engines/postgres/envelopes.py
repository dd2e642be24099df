"""How envelopes are stored, and publications that are to be relayed."""

from __future__ import annotations

from typing import Final

import msgspec

from chappe.messages.envelope import Envelope, Publication

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Envelope).decode
unwrapped: Final = msgspec.msgpack.Decoder(Publication).decode


def wrapped(p: Publication) -> Envelope:
    """Return an envelope that holds where a publication goes, too; `unwrapped` reads its body."""
    whole = Publication(p.envelope, p.routing_key, p.exchange)
    return Envelope(p.envelope.id, p.envelope.type, msgspec.msgpack.encode(whole), content_type="application/msgpack")
