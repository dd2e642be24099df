"""How messages are stored: their envelopes, what else must be tidied up when one ends, and in which state one waits."""

from __future__ import annotations

from typing import Final

import msgspec

from chappe.messages.envelope import Envelope

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Envelope).decode

TRACKED: Final = 1
UNIQUE: Final = 2
HISTORY: Final = 4  # failures are remembered
RETURNED: Final = 8  # it was lent before, and who had it then may have begun it
MERGES: Final = 32
SUSPECT: Final = 16  # it runs alone, because a worker died while it ran it

DELAYED: Final = 0
READY: Final = 1
BEHIND: Final = 2
ALONE: Final = 3
