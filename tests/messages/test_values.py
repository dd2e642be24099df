"""Values: what is written of a message is what is read of it, or it is refused with its place."""

import dataclasses
import datetime
import decimal
import enum
import math
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest

from chappe import Command, InvalidMessage, replace
from chappe.messages.message import decoder, writer_of
from chappe.messages.values import encode_result

NAN, INF = math.nan, math.inf
PARIS = zoneinfo.ZoneInfo("Europe/Paris")


class Point(msgspec.Struct):
    y: list[float]


class Point3(Point):
    z: float = 0.0


@dataclasses.dataclass
class Place:
    lat: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list[str])


@dataclasses.dataclass
class Room(Place):
    floor: int = 0


class Pair(NamedTuple):
    a: float
    b: int


class Typed(TypedDict, total=False):
    a: float


class Colour(enum.StrEnum):
    RED = "r"


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


class Unequal(msgspec.Struct, eq=False):
    a: int


class Text(str):
    __slots__ = ()


class Deep(Command, queue="q"):
    x: float | None = None
    point: Point | None = None
    place: Place | None = None
    pair: Pair | None = None
    typed: Typed | None = None
    many: dict[str, list[float]] = {}
    fixed: tuple[float, ...] = ()
    found: frozenset[float] = frozenset()
    anything: Any = None


@pytest.mark.parametrize("number", [NAN, INF, -INF])
@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("x", lambda n: n, "$.x"),
        ("point", lambda n: Point([1.0, 2.0, n]), "$.point.y[2]"),
        ("point", lambda n: {"y": [n]}, "$.point.y[0]"),
        ("place", lambda n: Place(n), "$.place.lat"),
        ("pair", lambda n: Pair(n, 1), "$.pair[0]"),
        ("typed", lambda n: {"a": n}, "$.typed.a"),
        ("many", lambda n: {"a": [1.0], "b": [n]}, "$.many.b[0]"),
        ("fixed", lambda n: (0.0, n), "$.fixed[1]"),
        ("found", lambda n: {n}, "$.found[0]"),
        ("anything", lambda n: {"a": [{1: n}]}, "$.anything.a[0][1]"),
        ("anything", lambda n: [object(), n], "$.anything[1]"),
    ],
)
def test_what_is_no_number_in_json_is_refused_with_its_place_where_the_message_is_built(
    field: str, value: Callable[[float], Any], path: str, number: float
) -> None:
    for build in (lambda: Deep(**{field: value(number)}), lambda: replace(Deep(), **{field: value(number)})):
        with pytest.raises(InvalidMessage) as caught:
            build()
        assert caught.value.faults == {path: "NaN and infinity are no numbers in JSON; send None, or a text"}


def test_what_became_no_number_after_the_message_was_built_is_refused_where_it_is_written() -> None:
    message = Deep(point=Point([1.0]), many={"a": [1.0]})
    assert message.point is not None
    message.point.y.append(NAN)
    with pytest.raises(InvalidMessage) as caught:
        writer_of(Deep)(message)
    assert list(caught.value.faults) == ["$.point.y[1]"]


def one(kind: Any) -> Any:
    """Return a command with one field of a type."""
    return types.new_class("One", (Command,), {}, lambda body: body.update(__annotations__={"x": kind}, __module__=__name__))


UTC = datetime.UTC
NOON = datetime.datetime(2026, 7, 1, 12, 0, 0, 123456)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (float, -0.0), (float, 5e-324), (float, sys.float_info.max), (float, 0.1 + 0.2), (float, 10**20), (float | None, None),
        (int, 2**63), (int, -(2**63) - 1), (int, 2**64), (int, 10**30), (int | float, 1), (int | float, 1.0), (int | bool, True),
        (str, "\x00 \u202e 🂡"), (str, "null"), (bytes, b"\xff\x00"), (uuid.UUID, uuid.UUID(int=7)), (bool, False),
        (decimal.Decimal, decimal.Decimal("1E+5")), (decimal.Decimal, decimal.Decimal("NaN")), (decimal.Decimal, decimal.Decimal("-0.00")),
        (datetime.datetime, NOON), (datetime.datetime, NOON.replace(tzinfo=UTC)), (datetime.datetime, NOON.replace(tzinfo=PARIS)),
        (datetime.datetime, datetime.datetime(2026, 10, 25, 2, 30, tzinfo=PARIS)),
        (datetime.datetime, datetime.datetime(2026, 10, 25, 2, 30, tzinfo=PARIS, fold=1)),
        (datetime.date, NOON.date()), (datetime.time, NOON.time()), (datetime.time, NOON.time().replace(tzinfo=UTC)),
        (datetime.timedelta, datetime.timedelta(days=-1, microseconds=1)), (datetime.timedelta, datetime.timedelta.max),
        (frozenset[int], frozenset({3, 1, 2})), (tuple[int, str], (1, "a")), (list[Pair], [Pair(1.5, 1)]), (Point, Point([1.5])),
        (Place, Place(1.5, ["a"])), (dict[int, str], {1: "a"}), (dict[Colour, int], {Colour.RED: 1}), (dict[float, int], {1.5: 1}),
        (dict[datetime.date, int], {NOON.date(): 1}), (dict[int | str, int], {"a": 1}), (dict[Literal[1, 2], int], {1: 1}), (Colour, Colour.RED), (Rights, Rights.READ | Rights.WRITE), (Level, Level.LOW),
        (Literal["a", 1], 1), (Any, {"a": [1, 1.0, True, None, "x"]}), (Any, Colour.RED), (Unequal, Unequal(1)), (list[Unequal], [Unequal(1)]),
        (msgspec.Raw, msgspec.Raw(b'{"a": 1}')), (float | str, "nan"), (int | msgspec.UnsetType, 5), (Typed, {"a": 1.0}),
    ],
)  # fmt: skip
def test_values_arrive_as_they_were_sent(kind: Any, value: Any) -> None:
    message_type = one(kind)
    sent = message_type(x=value)
    back = decoder(message_type)(writer_of(message_type)(sent))
    if "NaN" in repr(value):
        assert back.x.is_nan()
    elif isinstance(value, Unequal | msgspec.Raw) or value == [value] or "Unequal" in repr(value):
        assert type(back.x) is type(value)
    elif isinstance(value, datetime.datetime):
        assert (back.x.replace(tzinfo=None), back.x.utcoffset()) == (value.replace(tzinfo=None, fold=0), value.utcoffset())
    else:
        assert back.x == value
        assert repr(back.x) == repr(sent.x) or isinstance(value, frozenset | enum.Enum)


def seconds(count: int) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(seconds=count))


@pytest.mark.parametrize(
    ("kind", "value", "path", "says"),
    [
        (Any, (1, 2), "$.x", "(1, 2) would arrive as [1, 2]; declare the field with the type of its values"),
        (Any, {"a": {1}}, "$.x.a", "{1} would arrive as [1]"),
        (Any, {1: "a"}, "$.x", "{1: 'a'} would arrive as {'1': 'a'}"),
        (Any, Place(), "$.x", "would arrive as {'lat': 0.0, 'tags': []}"),
        (Any, [Point([])], "$.x[0]", "Point(y=[]) would arrive as {'y': []}"),
        (Any, Pair(1.0, 1), "$.x", "Pair(a=1.0, b=1) would arrive as [1.0, 1]"),
        (Any, NOON, "$.x", "would arrive as '2026-07-01T12:00:00.123456'"),
        (Any, b"a", "$.x", "b'a' would arrive as 'YQ=='"),
        (Any, decimal.Decimal("1.0"), "$.x", "would arrive as '1.0'"),
        (list[Any], [1, {2}], "$.x[1]", "{2} would arrive as [2]"),
        (Any, object(), "$.x", "it cannot be written as JSON: Encoding objects of type object is unsupported"),
        (Any, {(1, 2): 3}, "$.x", "it cannot be written as JSON: Only dicts with str-like or number-like keys"),
        (str, "\ud800", "$.x", "it cannot be written as JSON: 'utf-8' codec can't encode"),
        (list[str], ["a", "\udfff"], "$.x[1]", "it cannot be written as JSON"),
        (str, Text("a"), "$.x", "it cannot be written as JSON: Encoding objects of type Text is unsupported"),
        (Point, Point(["y"]), "$.x.y[0]", "it could not be read again: Expected `float`, got `str`"),  # type: ignore[list-item] # pyright: ignore
        (Place, Place(tags=[Text("a")]), "$.x.tags[0]", "Encoding objects of type Text is unsupported"),
        (datetime.datetime, NOON.replace(tzinfo=seconds(561)), "$.x", "would arrive as datetime.datetime"),
        (datetime.datetime, datetime.datetime(1800, 1, 1, tzinfo=PARIS), "$.x", "would arrive as datetime.datetime"),
        (datetime.time, NOON.time().replace(tzinfo=seconds(61)), "$.x", "would arrive as datetime.time"),
        (datetime.time, NOON.time().replace(tzinfo=PARIS), "$.x", "would arrive as datetime.time"),
        (msgspec.Raw, msgspec.Raw(b"nonsense"), "$", "it could not be read again: JSON is malformed"),
        (int | msgspec.UnsetType, msgspec.UNSET, "$.x", "Expected `int`, got `msgspec.UnsetType`"),
        (dict[float, int], {NAN: 1}, "$.x", "NaN and infinity are no numbers in JSON"),
        (dict[int | str, str], {1: "a"}, "$.x", "{1: 'a'} would arrive as {'1': 'a'}"),
        (dict[str | int, int], {2: 1, "a": 2}, "$.x", "would arrive as {'2': 1, 'a': 2}"),
        (list[dict[int | float | str, int]], [{1.5: 1}], "$.x[0]", "{1.5: 1} would arrive as"),
        (dict[Literal[1, "1"], str], {"1": "a"}, "$.x", "{'1': 'a'} would arrive as {1: 'a'}"),
    ],
)  # fmt: skip
def test_a_value_that_would_change_on_the_way_is_refused_with_its_place(kind: Any, value: Any, path: str, says: str) -> None:
    message_type = one(kind)
    with pytest.raises(InvalidMessage) as caught:
        writer_of(message_type)(message_type(x=value))
    assert list(caught.value.faults) == [path]
    assert says in caught.value.faults[path]


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidMessage, match="nested too deeply, or contains itself"):
        Deep(anything=endless)
    with pytest.raises(InvalidMessage, match="nested too deeply, or contains itself"):
        writer_of(Deep)(msgspec.structs.replace(Deep(), anything=endless))


def test_fields_that_a_subclass_adds_do_not_get_lost() -> None:
    message = Deep(point=Point([]), place=Place())
    for changes, path in (({"point": Point3([])}, "$.point"), ({"place": Room()}, "$.place")):
        with pytest.raises(InvalidMessage, match="Expected `object"):
            replace(message, **changes)
        with pytest.raises(InvalidMessage) as caught:  # past the constructor
            writer_of(Deep)(msgspec.structs.replace(message, **changes))
        assert list(caught.value.faults) == [path]


@pytest.mark.parametrize(
    ("kind", "value", "change", "path", "says"),
    [
        (list[int], [1], lambda x: x.append("a"), "$.x[1]", "Expected `int`, got `str`"),
        (list[bool], [], lambda x: x.append(1), "$.x[0]", "Expected `bool`, got `int`"),
        (list[float], [], lambda x: x.append(NAN), "$.x[0]", "NaN and infinity are no numbers in JSON"),
        (tuple[list[str], ...], [[]], lambda x: x[0].append(None), "$.x[0][0]", "Expected `str`, got `null`"),
        (list[datetime.date], [], lambda x: x.append("2026-07-01"), "$.x[0]", "'2026-07-01' would arrive as datetime.date(2026, 7, 1)"),
        (dict[str, int], {}, lambda x: x.update(a=1.5), "$.x[...]", "Expected `int`, got `float`"),
        (dict[str, str], {}, lambda x: x.update({1: "a"}), "$.x", "{1: 'a'} would arrive as {'1': 'a'}"),
        (set[Literal["a"]], set[str](), lambda x: x.add("b"), "$.x[0]", "Invalid enum value 'b'"),
    ],
)  # fmt: skip
def test_what_was_changed_after_it_was_checked_is_checked_when_it_is_written(
    kind: Any, value: Any, change: Any, path: str, says: str
) -> None:
    message_type = one(kind)
    message = message_type(x=value)
    assert decoder(message_type)(writer_of(message_type)(message)) == message
    change(message.x)
    with pytest.raises(InvalidMessage) as caught:
        writer_of(message_type)(message)
    assert says in caught.value.faults.get(path, ""), caught.value.faults


class Plain(Command, queue="q"):
    a: int
    b: str | None = None
    c: tuple[Literal["x", "y"], ...] = ()
    d: frozenset[uuid.UUID] = frozenset()


def test_nothing_is_read_again_where_the_types_say_that_nothing_can_change(monkeypatch: pytest.MonkeyPatch) -> None:
    examined = Plain.__examined__
    assert examined is not None and (examined.is_exact, examined.finite) == (True, ())
    monkeypatch.setattr("chappe.messages.message.decoder", lambda _: lambda _: pytest.fail("it was read again"))
    assert writer_of(Plain)(Plain(a=1)) == b'{"a":1,"b":null,"c":[],"d":[]}'


@pytest.mark.parametrize("value", [None, 1, 1.5, {"a": [1, None]}, Place(), Point([1.0]), (1, 2), Colour.RED])
def test_a_result_is_written_as_json(value: Any) -> None:
    assert encode_result(value) == msgspec.json.encode(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (NAN, r"^\$: NaN and infinity are no numbers in JSON"),
        ({"a": [1.0, INF]}, r"^\$.a\[1\]: NaN"),
        (Point([NAN]), r"^\$.y\[0\]: NaN"),
        ([1, object()], r"^\$\[1\]: Encoding objects of type object"),
        (["\ud800"], r"^\$\[0\]: 'utf-8' codec"),
    ],
)
def test_a_result_that_json_cannot_carry_is_refused_with_its_place(value: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        encode_result(value)
