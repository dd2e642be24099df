"""JSON Schema of messages."""

import datetime
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pytest

from chappe import Command
from chappe.messages.codec import encode_json


class Room(msgspec.Struct):
    number: Annotated[int, msgspec.Meta(ge=1)]


class Reserve(Command, queue="q"):
    """Hold a room."""

    guest: Annotated[str, msgspec.Meta(min_length=1)]
    rooms: list[Room]
    board: Literal["half", "full"] = "half"
    until: datetime.date | None = None


def test_the_schema_of_one_message_stands_alone_and_takes_what_the_class_takes() -> None:
    found = msgspec.json.schema(Reserve)
    validator = jsonschema.Draft202012Validator(found)
    validator.check_schema(found)
    validator.validate(msgspec.json.decode(encode_json(Reserve(guest="Ada", rooms=[Room(1)], until=datetime.date(2026, 1, 1)))))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"guest": "Ada"}, {"guest": "", "rooms": []}, {"guest": "A", "rooms": [{"number": 0}]}, {"guest": "A", "rooms": [], "board": "none"},
     {"guest": "A", "rooms": [], "extra": 1}],
)  # fmt: skip
def test_the_schema_refuses_what_the_class_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(msgspec.json.schema(Reserve)).validate(wrong)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(wrong), type=Reserve)
