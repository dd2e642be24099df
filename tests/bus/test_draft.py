"""What two requests with one idempotency key must have in common."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from chappe import Command
from chappe.bus.draft import fingerprint, fingerprint_of_body, listed
from chappe.errors import InvalidMessage


class Night(msgspec.Struct):
    day: int


class NightLater(msgspec.Struct):
    day: int
    price: float | None = None


class Book(Command, name="book", queue="q"):
    house: int
    nights: list[Night] = []
    what: frozenset[str] = frozenset()
    sent_by: str = msgspec.field(name="from", default="us")


class BookLater(Command, name="book.later", queue="q"):
    sent_by: str = msgspec.field(name="from", default="us")
    tags: set[str] = set()
    nights: list[NightLater] = []
    by_name: dict[str, int] = {}
    house: int
    what: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    "values", [{"house": 1}, {"house": 1, "nights": [{"day": 2}], "what": ["b", "a"], "from": "them"}, {"house": 1, "nights": []}]
)
def test_a_request_is_the_same_for_a_release_that_has_another_field_with_a_default(values: dict[str, Any]) -> None:
    assert fingerprint(msgspec.convert(values, Book)) == fingerprint(msgspec.convert(values, BookLater))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"house": 1}, {"house": 2}),
        ({"house": 1}, {"house": 1, "from": "them"}),
        ({"house": 1, "nights": [{"day": 1}]}, {"house": 1, "nights": [{"day": 2}]}),
        ({"house": 1, "what": ["a"]}, {"house": 1, "what": ["b"]}),
    ],
)
def test_another_value_anywhere_is_another_request(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert fingerprint(msgspec.convert(one, Book)) != fingerprint(msgspec.convert(other, Book))
    assert fingerprint_of_body(msgspec.json.encode(one)) != fingerprint_of_body(msgspec.json.encode(other))


def test_members_of_a_union_that_look_alike_are_not_the_same() -> None:
    class Card(msgspec.Struct, tag=True):
        number: str

    class Cash(msgspec.Struct, tag=True):
        number: str

    class Pay(Command, queue="q"):
        by: Card | Cash

    assert fingerprint(Pay(by=Card("1"))) != fingerprint(Pay(by=Cash("1")))


def test_spaces_and_the_order_of_fields_do_not_make_another_body() -> None:
    assert fingerprint_of_body(b'{"a":1,"b":{"d":1,"c":2}}') == fingerprint_of_body(b' {"b": {"c": 2, "d": 1}, "a": 1} ')


@pytest.mark.parametrize("number", [b"123456789012345678901234567890", b"1e999", b"-1" + b"0" * 5000])
def test_numbers_of_any_size_have_a_fingerprint(number: bytes) -> None:
    body = b'{"a":' + number + b"}"
    assert fingerprint_of_body(body) == fingerprint_of_body(body)
    assert fingerprint_of_body(body) != fingerprint_of_body(b'{"a":1}')


def test_what_cannot_be_written_is_said_with_its_place() -> None:
    with pytest.raises(InvalidMessage, match="sent_by"):
        fingerprint(Book(house=1, sent_by="\ud800"))


class _Stops(Command, queue="q"):
    stops: list[int] = []

    def __iter__(self) -> Iterator[int]:
        return iter(self.stops)


def test_a_message_that_can_be_iterated_over_is_one_message() -> None:
    tour = _Stops(stops=[1, 2])
    assert listed(tour) == ([tour], False)
    assert listed([tour]) == ([tour], True)
