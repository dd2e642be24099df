"""Fields: which types are taken, and what a class that cannot travel is told where it is declared."""

from __future__ import annotations

import datetime
import enum
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import msgspec
import pytest

from chappe import Command, InvalidMessage
from chappe.errors import DefinitionError
from chappe.messages.message import decoder, examined_of, writer_of
from chappe.messages.template import expand

if TYPE_CHECKING:
    from decimal import Decimal as Elsewhere

T = TypeVar("T")


class Foreign:
    pass


class FloatEnum(enum.Enum):
    A = 1.5


class MixedEnum(enum.Enum):
    A = 1
    B = "b"


class One(msgspec.Struct):
    a: int


class Other(msgspec.Struct):
    a: int


def declare(kind: Any, default: Any = ...) -> type[Command]:
    """Return a command with one field of a type."""
    body = {"__annotations__": {"x": kind}, "__module__": __name__, **({} if default is ... else {"x": default})}
    return type(Command)("A", (Command,), body)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Foreign, 'A: field "x" is of type Foreign, which JSON cannot carry; use a msgspec.Struct, a dataclass, or plain types'),
        (list[dict[str, Foreign]], 'A: field "x" is of type Foreign'),
        (object, 'A: field "x" is of type object; write Any for all that JSON can carry'),
        (msgspec.msgpack.Ext, 'A: field "x" is of type msgpack.Ext, which JSON cannot carry; use bytes'),
        (dict[tuple[int, int], str], 'A: field "x" has keys that JSON cannot carry; use texts, numbers or enumerations as keys, or a list'),
        (dict[bool, str], 'A: field "x" has keys that JSON cannot carry'),
        (dict[str | None, str], 'A: field "x" has keys that JSON cannot carry'),
        (FloatEnum, 'A: field "x": Enums must contain either all str or all int values; give its members texts or whole numbers'),
        (list[MixedEnum], 'A: field "x": Enums must contain either all str or all int values'),
        (str | datetime.date, 'A: field "x": Type unions may not contain more than one str-like type'),
        (str | datetime.date, "JSON could not tell them apart; write one of them, or Structs with a tag= each"),
        (Self | None, "A: field \"x\": Type 'typing.Self' is not supported; write the name of the class, as a text"),
        (One | Other, 'A: field "x": '),
        (dict[str, int] | One, "JSON could not tell them apart"),
    ],
)
def test_a_type_that_json_cannot_carry_is_refused_where_the_class_is_made(kind: Any, says: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare(kind)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "default", "says"),
    [
        (int, "x", "the default 'x' of field \"x\" does not fit its type (Expected `int`, got `str`); change one of them"),
        (str, None, 'the default None of field "x" does not fit its type (Expected `str`, got `null`)'),
        (datetime.date, "2026-01-01", "it would be datetime.date(2026, 1, 1)"),
        (list[int], (1,), "it would be [1]"),
        (Literal["a"], "b", "Invalid enum value 'b'"),
        (float, float("nan"), "it would be nan"),
    ],
)
def test_a_default_that_is_no_value_of_its_field_is_refused_where_the_class_is_made(kind: Any, default: Any, says: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare(kind, default)
    assert says in str(caught.value)


@pytest.mark.parametrize(("kind", "default"), [(float, 1), (int | None, None), (frozenset[int], frozenset()), (list[int], []), (Any, 1)])
def test_a_default_that_fits_is_taken(kind: Any, default: Any) -> None:
    assert declare(kind, default)().x == default  # type: ignore[attr-defined] # pyright: ignore


def test_what_a_factory_makes_is_looked_at_when_it_is_sent() -> None:
    message_type = declare(int, msgspec.field(default_factory=lambda: "x"))
    with pytest.raises(InvalidMessage, match=r"\$\.x: it could not be read again: Expected `int`, got `str`"):
        writer_of(message_type)(message_type())


class Later(Command, queue="q"):
    tree: Tree


class Missing(Command, queue="q"):
    amount: Elsewhere


class Tree(msgspec.Struct):
    value: float
    children: list[Tree] = []


class Open(Command, Generic[T], queue="q"):
    value: T


def test_types_that_are_declared_later_are_looked_at_when_they_are_there() -> None:
    with pytest.raises(InvalidMessage, match=r"\$\.tree\.children\[0\]\.value: NaN"):
        Later(tree=Tree(1.0, [Tree(float("nan"))]))
    assert examined_of(Later).is_exact is False
    assert decoder(Later)(writer_of(Later)(Later(tree=Tree(1.0)))) == Later(tree=Tree(1.0))
    assert Open(value=1).value == 1


def test_a_type_for_type_checkers_only_is_told_where_to_import_it() -> None:
    for use in (lambda: Missing(amount=1), lambda: examined_of(Missing)):  # type: ignore[arg-type] # pyright: ignore
        with pytest.raises(
            DefinitionError, match=r"name 'Elsewhere' is not defined\); define or import it .* not only under TYPE_CHECKING"
        ):
            use()


def test_a_class_inside_a_function_may_name_what_is_around_it() -> None:
    class Size(enum.Enum):
        SMALL = "s"

    class Box(msgspec.Struct):
        size: int

    class Send(Command, queue="send.{size}"):
        size: Size
        boxes: list[Box]

    message = Send(size=Size.SMALL, boxes=[Box(1)])
    assert decoder(Send)(writer_of(Send)(message)) == message
    assert expand("Send", "send.{size}", Send) == ["send.s"]
