"""How envelopes are stored."""

from __future__ import annotations

from typing import Final

import msgspec

from chappe.messages.envelope import Envelope

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Envelope).decode
