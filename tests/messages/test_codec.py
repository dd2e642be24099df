"""The codec: JSON by default, MessagePack by content type."""

import datetime
from typing import Any

import msgspec
import pytest

from chappe import Command, InvalidMessage
from chappe.messages.codec import JSON, MSGPACK, decode_body, decode_plain, decoder, encode_json


class Stay(Command, queue="q"):
    guest: str
    since: datetime.date
    payload: bytes = b""
    tags: frozenset[int] = frozenset()


STAY = Stay(guest="Ada", since=datetime.date(2026, 3, 1), payload=b"\x00\xff", tags=frozenset({1}))


def test_json_goes_there_and_back() -> None:
    body = encode_json(STAY)
    assert msgspec.json.decode(body) == {"guest": "Ada", "since": "2026-03-01", "payload": "AP8=", "tags": [1]}
    assert decoder(Stay)(body) == STAY


@pytest.mark.parametrize("content_type", [MSGPACK, f"{MSGPACK}; charset=binary"])
def test_messagepack_is_chosen_by_the_content_type(content_type: str) -> None:
    assert decoder(Stay, content_type)(msgspec.msgpack.encode(STAY)) == STAY


def test_a_body_of_the_other_codec_is_an_error_not_a_guess() -> None:
    with pytest.raises(msgspec.DecodeError):
        decoder(Stay, JSON)(msgspec.msgpack.encode(STAY))


def test_plain_decoding_needs_no_type() -> None:
    assert decode_plain(b'{"a": 1}') == {"a": 1}
    assert decode_plain(msgspec.msgpack.encode({"a": 1}), MSGPACK) == {"a": 1}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"guest": "\xff"}', b"nul", b"[" * 100_000, b"[", b'{"guest": 1,', b'{"guest": 1} x']
)
def test_what_is_no_json_has_one_fault_at_the_root(body: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_body(Stay, "stay", body)
    assert list(caught.value.faults) == ["$"]


@pytest.mark.parametrize(
    ("body", "kind"), [(b"[]", "array"), (b"3", "int"), (b'"x"', "str"), (b"null", "null"), (b"true", "bool"), (b"1.5", "float")]
)
def test_json_that_is_no_object_is_named_by_its_kind(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_body(Stay, "stay", body)
    assert caught.value.faults == {"$": f"Expected `object`, got `{kind}`"}


def test_every_field_at_fault_has_its_own_path() -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_body(Stay, "stay", b'{"guest": 1, "since": "yesterday", "tags": [1, "b"], "more": true}')
    assert set(caught.value.faults) == {"$.guest", "$.since", "$.tags[1]", "$.more"}


def test_a_date_in_json_is_no_fault_while_another_field_is() -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_body(Stay, "stay", b'{"guest": 1, "since": "2026-03-01", "payload": "AP8="}')
    assert list(caught.value.faults) == ["$.guest"]


def test_a_fault_that_a_later_field_of_the_same_name_hides_is_named_all_the_same() -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_body(Stay, "stay", b'{"guest": "Ada", "since": "yesterday", "since": "2026-03-01"}')
    assert caught.value.faults == {"$": "Invalid RFC3339 encoded date - at `$.since`"}


def test_numbers_are_not_taken_for_texts_nor_texts_for_numbers() -> None:
    class Count(Command, queue="q"):
        number: int

    loose: Any = b'{"number": "3"}'
    with pytest.raises(InvalidMessage):
        decode_body(Count, "count", loose)
