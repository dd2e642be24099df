"""Messages: frozen, typed, checked when they are built."""

import datetime
import enum
from typing import Any, Literal

import msgspec
import pytest

from chappe import Command, Event, InvalidMessage, replace


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Night(msgspec.Struct, frozen=True):
    date: datetime.date
    cents: int


class Book(Command, queue="bookings"):
    guest: str
    nights: list[Night]
    size: Size = Size.SMALL
    what: frozenset[Literal["rates", "availability"]] = frozenset()


class Ordered(Event):
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError("last is before first")


def test_a_message_is_built_by_keywords_and_frozen() -> None:
    message = Book(guest="Ada", nights=[])
    assert (message.guest, message.size) == ("Ada", Size.SMALL)
    with pytest.raises(AttributeError):
        message.guest = "Bob"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        Book("Ada", [])  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def test_plain_values_become_the_types_of_the_fields() -> None:
    loose: Any = {"guest": "Ada", "nights": [{"date": datetime.date(2026, 1, 1), "cents": 9000}], "what": {"rates"}, "size": Size.LARGE}
    message = Book(**loose)
    assert message.nights == [Night(datetime.date(2026, 1, 1), 9000)]
    assert message.what == frozenset({"rates"})


def test_all_faults_are_told_at_once_with_their_paths() -> None:
    wrong: Any = {"nights": [Night(datetime.date(2026, 1, 1), 1), {"date": "tomorrow", "cents": 1}], "size": "huge", "extra": 1}
    with pytest.raises(InvalidMessage) as caught:
        Book(**wrong)
    faults = caught.value.faults
    assert set(faults) == {"$.guest", "$.nights[1].date", "$.size", "$.extra"}
    assert faults["$.guest"] == "Field required"
    assert faults["$.extra"] == "Unknown field"
    assert "Invalid enum value" in faults["$.size"]
    assert str(caught.value).startswith("book is not valid: ")


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("guest", 3, "$.guest"),
        ("guest", None, "$.guest"),
        ("nights", {}, "$.nights"),
        ("nights", [1], "$.nights[0]"),
        ("nights", [{"date": datetime.date(2026, 1, 1)}], "$.nights[0]"),
        ("what", {"prices"}, "$.what[0]"),
        ("size", "medium", "$.size"),
    ],
)
def test_a_fault_has_the_path_of_what_is_wrong(field: str, value: Any, path: str) -> None:
    values: dict[str, Any] = {"guest": "Ada", "nights": [], field: value}
    with pytest.raises(InvalidMessage) as caught:
        Book(**values)
    assert list(caught.value.faults) == [path]


def test_a_rule_of_the_whole_message_is_a_fault_of_the_whole() -> None:
    with pytest.raises(InvalidMessage) as caught:
        Ordered(first=2, last=1)
    assert caught.value.faults == {"$": "last is before first"}


def test_replace_gives_a_checked_copy() -> None:
    first = Book(guest="Ada", nights=[])
    second = replace(first, guest="Bob")
    assert (first.guest, second.guest) == ("Ada", "Bob")
    with pytest.raises(InvalidMessage):
        replace(first, guest=3)


def test_messages_are_equal_by_value_and_hashable() -> None:
    assert Ordered(first=1, last=2) == Ordered(first=1, last=2)
    assert len({Ordered(first=1, last=2), Ordered(first=1, last=2), Ordered(first=1, last=3)}) == 2


def test_the_spec_is_the_same_of_a_message_and_its_class() -> None:
    assert Book.__spec__ is Book(guest="Ada", nights=[]).__spec__
    assert Book.__spec__.name == "book"
