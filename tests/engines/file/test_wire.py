"""Frames survive any cutting, and nothing but our own errors comes out of a failure."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chappe import errors
from chappe.engines.file.wire import LARGEST_FRAME, UNREADABLE, Failure, Frames, decode_request, error_of, failure_of, frame


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 50), max_size=40))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(body) for body in bodies)
    frames, found, at = Frames(), [], 0
    for cut in [*cuts, len(stream)]:
        found += list(frames.feed(stream[at : at + cut]))
        at += cut
    assert [frame_body for frame_body in found] == [frame(body)[4:] for body in bodies]


def test_a_frame_that_claims_to_be_huge_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than"):
        list(Frames().feed((LARGEST_FRAME + 1).to_bytes(4, "big")))


@given(st.binary(max_size=200))
def test_garbage_is_a_decode_error_and_nothing_else(body: bytes) -> None:
    with contextlib.suppress(*UNREADABLE):
        decode_request(body)


def test_an_error_crosses_the_wire_as_itself() -> None:
    again = error_of(failure_of(errors.Unroutable("no queue is called x")))
    assert type(again) is errors.Unroutable
    assert str(again) == "no queue is called x"


@pytest.mark.parametrize("kind", ["SystemExit", "os", "annotations", "Mapping", "faults_of", "InvalidMessage", "Nonsense", "__builtins__"])
def test_what_is_no_error_of_ours_becomes_a_plain_broker_error(kind: str) -> None:
    assert type(error_of(Failure(kind, "text"))) is errors.BrokerError


def test_a_large_frame_that_comes_in_small_pieces_is_read_once() -> None:
    stream, frames = frame(b"x" * 8_000_000), Frames()
    found = [body for at in range(0, len(stream), 65536) for body in frames.feed(stream[at : at + 65536])]
    assert len(found) == 1
