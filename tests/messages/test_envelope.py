"""The envelope: stored ones still decode when fields were appended."""

import time

import msgspec
import pytest

from chappe.bus.draft import new_id
from chappe.messages.envelope import Envelope, Options, changed, sent_at


def test_an_envelope_of_the_first_format_still_decodes() -> None:
    old = msgspec.msgpack.encode(["id", "sync.property", b"{}"])
    assert msgspec.msgpack.decode(old, type=Envelope) == Envelope("id", "sync.property", b"{}")


def test_changed_keeps_the_other_options() -> None:
    assert changed(None, tracked=True) == Options(tracked=True)
    assert changed(Options(key="k"), tracked=True) == Options(key="k", tracked=True)


@pytest.mark.parametrize("suffix", ["", ".0", ".14999"])
def test_an_id_of_ours_tells_when_it_was_made_also_that_of_a_part_of_a_batch(suffix: str) -> None:
    before = time.time()
    made = sent_at(new_id() + suffix)
    assert made is not None
    assert before - 0.001 <= made <= time.time()


@pytest.mark.parametrize("message_id", ["", "42", "order-7", "x" * 36, "f47ac10b-58cc-4372-a567-0e02b2c3d479", "01a226ef"])
def test_an_id_of_another_program_tells_nothing(message_id: str) -> None:
    assert sent_at(message_id) is None
