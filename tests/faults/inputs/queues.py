"""Messages in a queue that no handler can take: each ends as a dead letter that says why."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from ...waiting import until
from .house import House
from .row import Answer, Row

_ids = itertools.count()


def parked(
    *, kind: str = "parcel", body: bytes = b'{"weight": 1}', content_type: str = "application/json", timestamp: float = 0.0
) -> Callable[[House], Answer]:
    """Publish an envelope past our own client, and wait until the worker made a dead letter of it."""

    def send(house: House) -> Answer:
        known = len(house.letters())
        identity = f"wrong-{next(_ids)}"
        envelope = (identity, kind, body, timestamp, content_type, {}, None, None)
        with house.wire() as wire:
            assert wire.ask("publish", [(envelope, "parcels")]).code == "done"
        until(lambda: len(house.letters()) > known and house.running("parcels") == 0, "a dead letter")
        return house.letters()[-1]

    return send


ROWS = [
    Row("queue-unknown-type", "a type that nobody knows", "type `spaceship`", "unknown message", 'no message is called "spaceship", did you mean "parcel"?',
        parked(kind="spaceship")),
    Row("queue-no-type", "no type", "an empty type", "unknown message", 'no message is called "", known are: add, order, packet, parcel, sold', parked(kind="")),
    Row("queue-foreign-type", "a type that another queue's handlers take", "type `sold`, an event", "unknown message",
        'nothing handles Sold in queue "parcels"; write a function and decorate it with @app.handles(Sold)', parked(kind="sold", body=b'{"customer": "Ada"}')),
    Row("queue-not-json", "no JSON", "a byte `ff`", "undecodable", "parcel: DecodeError: JSON is malformed: invalid character (byte 0)", parked(body=b"\xff\x00")),
    Row("queue-empty", "no body", "0 bytes", "undecodable", "parcel: DecodeError: Input data was truncated", parked(body=b"")),
    Row("queue-wrong-type", "a field of another type", '`{"weight": "x"}`', "undecodable", "Expected `int`, got `str` - at `$.weight`", parked(body=b'{"weight": "x"}')),
    Row("queue-missing", "a field is missing", "`{}`", "undecodable", "Object missing required field `weight`", parked(body=b"{}")),
    Row("queue-newer", "a newer version, with a field more", '`{"weight": 1, "colour": "red"}`', "undecodable", "Object contains unknown field `colour`",
        parked(body=b'{"weight": 1, "colour": "red"}')),
    Row("queue-content-type", "a content type that is not known", "`application/xml`", "undecodable",
        'content type "application/xml" is neither application/json nor application/msgpack', parked(content_type="application/xml")),
    Row("queue-other-codec", "JSON that says it is MessagePack", "`application/msgpack`", "undecodable", "parcel: ", parked(content_type="application/msgpack")),
    Row("queue-deep", "100,000 brackets", '`{"weight": [[[…`', "undecodable", "Expected `int`, got `array` - at `$.weight`", parked(body=b'{"weight": ' + b"[" * 100_000)),
    Row("queue-digits", "an integer of more than 4,300 digits", "5,000 nines", "undecodable", "Integer value out of range", parked(body=b'{"weight": ' + b"9" * 5000 + b"}")),
    Row("queue-time", "a time that no calendar has", "type `spaceship`, sent in the year 10²⁹²", "unknown message", 'no message is called "spaceship"',
        parked(kind="spaceship", timestamp=1e300)),
]  # fmt: skip
