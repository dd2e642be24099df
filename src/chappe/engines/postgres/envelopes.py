"""How envelopes, and the histories of dead letters, are stored."""

from __future__ import annotations

from typing import Final

import msgspec

from chappe.messages.envelope import Envelope

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Envelope).decode
decode_history: Final = msgspec.msgpack.Decoder(tuple[tuple[float, int, str], ...]).decode
