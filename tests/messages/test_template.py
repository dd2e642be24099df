"""Templates: names made from the fields of a message."""

import enum
from typing import Any, Literal

import pytest

from chappe import Command
from chappe.errors import InvalidCapability
from chappe.messages.template import expand, fields_of, renderer, text


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Paint(Command, queue="paint.{colour}.{speed}", key="{colour}:{litres}"):
    colour: Colour
    speed: Literal["fast", "slow"]
    litres: int = 1


@pytest.mark.parametrize(("template", "fields"), [("plain", []), ("{a}", ["a"]), ("x.{a}.{b}", ["a", "b"]), ("{{a}}", []), ("", [])])
def test_fields_are_what_stands_in_braces(template: str, fields: list[str]) -> None:
    assert fields_of(template) == fields


@pytest.mark.parametrize("template", ["{a", "a}", "{a!"])
def test_broken_braces_are_no_template(template: str) -> None:
    with pytest.raises(InvalidCapability, match="is no template"):
        fields_of(template)


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("plain", "plain"),
        ("{colour}", "red"),
        ("q.{colour}.{litres}", "q.red.3"),
        ("100%.{litres}", "100%.3"),
        ("{litres}{litres}", "33"),
        ("a%s.{litres}", "a%s.3"),
    ],
)
def test_a_template_is_filled_from_the_message(template: str, rendered: str) -> None:
    message = Paint(colour=Colour.RED, speed="fast", litres=3)
    assert renderer(template)(message) == rendered


@pytest.mark.parametrize(("value", "written"), [(Colour.BLUE, "blue"), (3, "3"), (True, "True"), (None, "None"), ("x", "x")])
def test_an_enumeration_gives_its_value(value: Any, written: str) -> None:
    assert text(value) == written


def test_a_queue_template_gives_every_queue_in_advance() -> None:
    assert expand("Paint", "paint.{colour}.{speed}", Paint) == ["paint.red.fast", "paint.red.slow", "paint.blue.fast", "paint.blue.slow"]


def test_an_open_field_in_a_queue_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidCapability, match='"litres" must be a Literal or an Enum.*use key="{litres}"'):
        expand("Paint", "paint.{litres}", Paint)


@pytest.mark.parametrize("keyword", ["queue", "key", "unique", "rate"])
def test_a_template_that_names_no_field_is_refused_when_the_class_is_made(keyword: str) -> None:
    from chappe import Rate

    value: Any = Rate("1/s", key="{nobody}") if keyword == "rate" else "{nobody}"
    with pytest.raises(InvalidCapability, match='names "nobody", but the fields are: number'):
        make: Any = type(Command)
        make("Wrong", (Command,), {"__annotations__": {"number": int}}, **{keyword: value})
