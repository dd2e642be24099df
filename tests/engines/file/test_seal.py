"""The checksum before each stored envelope."""

import msgspec
import pytest

from chappe.engines.file.seal import DAMAGED, seal, unseal, unseal_or_stand_in
from chappe.errors import CorruptStorage
from chappe.messages.envelope import Envelope


def test_what_was_sealed_comes_out_as_it_was() -> None:
    assert bytes(unseal(seal(b"an envelope"))) == b"an envelope"
    assert bytes(unseal(seal(msgspec.Raw(b"raw")))) == b"raw"


def test_any_flipped_bit_is_noticed() -> None:
    sealed = seal(b"an envelope")
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptStorage):
            unseal(bytes(changed))


def test_a_damaged_envelope_is_shown_as_such_with_the_bytes_that_were_found() -> None:
    shown = msgspec.msgpack.decode(unseal_or_stand_in(b"garbage", "m1"), type=Envelope)
    assert (shown.id, shown.type, shown.body) == ("m1", DAMAGED, b"garbage")
