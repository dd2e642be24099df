"""The envelope: stored ones still decode when fields were appended."""

import msgspec

from chappe.messages.envelope import Envelope, Options, changed


def test_an_envelope_of_the_first_format_still_decodes() -> None:
    old = msgspec.msgpack.encode(["id", "sync.property", b"{}"])
    assert msgspec.msgpack.decode(old, type=Envelope) == Envelope("id", "sync.property", b"{}")


def test_changed_keeps_the_other_options() -> None:
    assert changed(None, tracked=True) == Options(tracked=True)
    assert changed(Options(key="k"), tracked=True) == Options(key="k", tracked=True)
