"""The shape of a message's class: what msgspec offers works everywhere, or is refused where the class is made."""

from typing import Any

import msgspec
import pytest

from chappe import App, Command, Event, InvalidMessage, replace
from chappe.cli.sending import parse
from chappe.errors import DefinitionError, InvalidCapability
from chappe.messages.codec import decode_body
from chappe.messages.message import decoder, writer_of
from chappe.testing import testing


class Mail(Command, queue="mail", key="{sender}"):
    sender: str = msgspec.field(name="from")
    size: int = 0

    def merge(self, newer: "Mail") -> "Mail":
        return replace(newer, size=self.size + newer.size)


class Camel(Command, queue="q", rename="camel"):
    first_name: str
    last_name: str = "x"


class Swapped(Command, queue="q"):
    a: int = msgspec.field(name="b")
    b: int = msgspec.field(name="a")


class Tagged(Command, queue="q", tag="tagged", tag_field="kind"):
    a: int


class Lenient(Command, queue="q", forbid_unknown_fields=False):
    a: int


class Short(Command, queue="q", omit_defaults=True):
    a: int = 1


class Ordered(Command, queue="q", order=True, dict=True, weakref=True, cache_hash=True):
    a: int


class Odd(Command, queue="q"):
    cls: int
    self: int
    queue: str
    message: int
    name: str
    positional: int = 0


MESSAGES: list[tuple[type[Command], dict[str, Any], dict[str, Any]]] = [
    (Mail, {"sender": "ada"}, {"from": "ada", "size": 0}),
    (Camel, {"first_name": "Ada"}, {"firstName": "Ada", "lastName": "x"}),
    (Swapped, {"a": 1, "b": 2}, {"b": 1, "a": 2}),
    (Tagged, {"a": 1}, {"kind": "tagged", "a": 1}),
    (Lenient, {"a": 1}, {"a": 1}),
    (Short, {}, {}),
    (Ordered, {"a": 1}, {"a": 1}),
    (Odd, {"cls": 1, "self": 2, "queue": "q", "message": 3, "name": "n"},
        {"cls": 1, "self": 2, "queue": "q", "message": 3, "name": "n", "positional": 0}),
]  # fmt: skip
everywhere = pytest.mark.parametrize(("kind", "values", "sent"), MESSAGES, ids=lambda value: getattr(value, "__name__", ""))


@everywhere
def test_a_message_is_built_by_its_names_in_python_and_travels_by_those_in_json(
    kind: type[Command], values: dict[str, Any], sent: dict[str, Any]
) -> None:
    message = kind(**values)
    assert {name: getattr(message, name) for name in values} == values
    body = writer_of(kind)(message)
    assert msgspec.json.decode(body) == sent
    assert decoder(kind)(body) == decode_body(kind, "x", body) == message
    assert replace(message, **values) == message
    (shape,) = [definition for name, definition in msgspec.json.schema(kind)["$defs"].items() if name == kind.__name__]
    assert set(sent) <= set(shape["properties"])


@everywhere
def test_a_message_is_sent_from_the_command_line_by_its_names_in_json(
    kind: type[Command], values: dict[str, Any], sent: dict[str, Any]
) -> None:
    app = App("shop")
    app.knows(kind)
    words = tuple(f"{name}={value}" for name, value in sent.items())
    assert parse(app, kind.__spec__.name, words, Command) == kind(**values)


@everywhere
def test_a_message_arrives_at_its_handler(kind: type[Command], values: dict[str, Any], sent: dict[str, Any]) -> None:
    app, got = App("shop"), list[Any]()
    app.handles(kind)(got.append)
    with testing(app) as t:
        t.send(kind(**values))
        t.drain()
        assert got == t.sent(kind) == [kind(**values)]


def test_renamed_fields_merge_and_make_keys() -> None:
    app, got = App("shop"), list[Any]()
    app.handles(Mail)(got.append)
    with testing(app) as t:
        app.send([Mail(sender="ada", size=1), Mail(sender="ada", size=2), Mail(sender="bo")])
        t.drain()
    assert sorted(got, key=lambda mail: mail.sender) == [Mail(sender="ada", size=3), Mail(sender="bo")]


@pytest.mark.parametrize(
    ("build", "faults"),
    [
        (lambda: Mail(sender=1), {"$.sender": "Expected `str`, got `int`"}),  # type: ignore[arg-type] # pyright: ignore
        (lambda: Mail(), {"$.sender": "Field required"}),  # type: ignore[call-arg] # pyright: ignore
        (lambda: Mail(**{"from": "ada"}), {"$.sender": "Field required", "$.from": "Unknown field"}),
        (lambda: Swapped(a="x", b=1), {"$.a": "Expected `int`, got `str`"}),  # type: ignore[arg-type] # pyright: ignore
        (lambda: Lenient(a="x", b=1), {"$.a": "Expected `int`, got `str`"}),  # type: ignore[call-arg] # pyright: ignore
        (lambda: decode_body(Mail, "mail", b'{"sender": "ada"}'), {"$.from": "Field required", "$.sender": "Unknown field"}),
        (lambda: decode_body(Tagged, "tagged", b'{"kind": "tagged", "a": "x"}'), {"$.a": "Expected `int`, got `str`"}),
    ],
)
def test_faults_are_told_by_the_names_of_those_who_made_them(build: Any, faults: dict[str, str]) -> None:
    with pytest.raises(InvalidMessage) as caught:
        build()
    assert caught.value.faults == faults


def test_unknown_fields_are_passed_over_where_the_class_says_so() -> None:
    assert Lenient(a=1, b=2) == Lenient(a=1)  # type: ignore[call-arg] # pyright: ignore


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frozen": False}, "A: frozen=False is not possible: messages are values that never change; make a changed copy with replace"),
        ({"kw_only": False}, "A: kw_only=False is not possible: messages take their fields by name"),
        ({"array_like": True}, "A: array_like=True is not possible: a message is an object in JSON"),
    ],
)
def test_an_option_that_a_message_cannot_have_is_refused_where_the_class_is_made(options: dict[str, Any], says: str) -> None:
    for base in (Command, Event):
        with pytest.raises(InvalidCapability) as caught:
            type(base)("A", (base,), {}, **options)
        assert says in str(caught.value)


@pytest.mark.parametrize("name", ["merge", "__spec__", "__examined__", "__struct_fields__"])
def test_a_field_that_would_hide_what_every_message_has_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf'A: a field cannot be called "{name}".* msgspec.field\(name="{name}"\) to keep'):
        type(Command)("A", (Command,), {"__annotations__": {name: int}, "__module__": __name__})


@pytest.mark.parametrize(
    ("namespace", "options", "says"),
    [
        ({"__annotations__": {"x": list}, "x": [1]}, {}, "mutable"),
        ({"__annotations__": {"a": int, "b": int}}, {"rename": {"a": "b"}}, "A: "),
    ],
)
def test_what_msgspec_refuses_is_told_with_the_name_of_the_class(namespace: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        type(Command)("A", (Command,), {**namespace, "__module__": __name__}, **options)
