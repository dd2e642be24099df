"""The bounds of JSON from outside."""

import pytest

from chappe.messages.bounds import DEEPEST, MOST_FIELDS, excess_of

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 64 + b"]" * 64, False),
        (b"[[]," + b"[" * 63 + b"]" * 63 + b"]", False),
        (b"[[]," + b"[" * 64 + b"]" * 64 + b"]", True),
        (b"[" * 65 + b"]" * 65, True),
        (b'{"a":' * 65 + b"1" + b"}" * 65, True),
        (b"[" + b"[]," * 1000 + b"[]]", False),
        (b'["' + b"[" * 1000 + b'"]', False),
        (b'["\\"' + b"[" * 1000 + b'"]', False),
        (b'["\\\\", ' + b"[" * 65, True),
        (b"[" * 65, True),
        (b'["\n"' + b"," + b"[" * 65, True),
        (b'["' + b"[" * 70 + b"\\", False),
    ],
)
def test_depth_counts_brackets_outside_of_texts(body: bytes, deep: bool) -> None:
    assert (excess_of(body) == ("nested too deeply", f"at most {DEEPEST} levels are taken")) is deep


def test_fields_are_counted_over_all_objects_and_outside_of_texts() -> None:
    one = b'{"a":1},'
    assert excess_of(b"[" + one * MOST_FIELDS + b"1]") is None
    assert excess_of(b"[" + one * (MOST_FIELDS + 1) + b"1]") == ("of too many fields", f"at most {MOST_FIELDS} are taken")
    assert excess_of(b'["' + b":" * (MOST_FIELDS + 1) + b'"]') is None


@pytest.mark.parametrize(
    ("body", "twice"),
    [
        (b'{"a": 1, "a": 1}', "a"),
        (b'{"a": 1, "\\u0061": 2}', "a"),
        (b'[{"x": {"b": 1, "c": 2, "b": 3}}]', "b"),
        (b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}', None),
        (b'{"a": "x", "b": "\\"a\\": 1"}', None),
        (b'{"a": 1, "A": 1}', None),
    ],
)
def test_a_field_that_comes_twice_in_one_object_is_named(body: bytes, twice: str | None) -> None:
    assert excess_of(body) == (None if twice is None else ("ambiguous", f'"{twice}" comes twice in one object; name each field once'))


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a": 1, "a"', b"\xff\xfe:\x00:", b'{"a": \xff, "a": 1}', b"::", b'{"a":' + b"9" * 5000 + b', "b":']
)
def test_what_is_no_json_is_left_to_the_decoder(body: bytes) -> None:
    assert excess_of(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b"{}" * 70 + b'"' + b'\\"' * (MEBIBYTE // 2),  # a text without an end that could begin at each of its quotes
        b"{}" * 70 + b'"' + b"a" * MEBIBYTE,
        b"[" + b"{}," * (MEBIBYTE // 3) + b"1]",
        b"[" * 70 + b'"",' * (MEBIBYTE // 3),
        b"{" + b'"a":1,' * (MEBIBYTE // 6) + b'"a":1}',
        b"{" + b",".join(b'"%x":1' % n for n in range(MOST_FIELDS - 1)) + b',"0":1}',
        b'{"a":1,"a":2,"b":"' + b"\\u0000" * (MEBIBYTE // 6) + b'"}',
    ],
    ids=["unended", "long", "braces", "texts", "doubles", "late double", "escapes"],
)
def test_a_mebibyte_is_looked_at_without_looking_twice_at_a_byte(body: bytes) -> None:
    excess_of(body)  # else this would take hours
