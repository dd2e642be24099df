"""Wrong frames on the engine's Unix socket, and requests that no client of ours would make."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from chappe.engines.file.wire import PROTOCOL, encode, frame

from ...waiting import until
from .house import ORDER, House
from .row import Answer, Row

LARGE = b"\xcf" + b"\xff" * 8  # 2**64 - 1 in MessagePack
NAN, INFINITE = float("nan"), float("inf")


def framed(body: bytes) -> bytes:
    """Put the length before a body that our own encoder would not make."""
    return struct.pack(">I", len(body)) + body


def dropped(data: bytes, *, end: bool = False) -> Callable[[House], Answer]:
    """Send bytes for which the engine hangs up, and give what it said about it in its log."""

    def send(house: House) -> Answer:
        before = len(house.log("engine"))
        with house.wire() as wire:
            answer = wire.say(data, end=end)
            if not end:
                until(lambda: "dropped a client" in house.log("engine")[before:], "the engine to say why")
        return Answer(answer.code, house.log("engine")[before:])

    return send


def asked(verb: str, *arguments: Any) -> Callable[[House], Answer]:
    """Ask for something over a connection of its own."""

    def send(house: House) -> Answer:
        with house.wire() as wire:
            return wire.ask(verb, *arguments)

    return send


def said(data: bytes) -> Callable[[House], Answer]:
    """Send bytes and give the engine's answer."""

    def send(house: House) -> Answer:
        with house.wire() as wire:
            return wire.say(data)

    return send


def posted(*more: Any, envelope: Any = None, key: str = "orders") -> list[Any]:
    """Write one publication for the wire; what comes behind the routing key can be anything."""
    whole = ("id", "order", ORDER, 0.0, "application/json", {}, None, None)
    return [(whole if envelope is None else envelope, key, *more)]


def settled_by_another(house: House) -> Answer:
    """Have one client hold a message, and another one settle it; then give it back and take it away."""
    with house.wire() as owner, house.wire() as thief:
        owner.ask("publish", posted(key="shop.on.sold"))
        owner.ask("receive", ["shop.on.sold"], 1, 5.0)
        assert house.running("shop.on.sold") == 1
        answers = [thief.ask("settle", [("ack", tag)]).text for tag in range(1, house.highest_tag() + 1)]
        stolen = [text for text in answers if "stale" not in text]
        assert house.running("shop.on.sold") == 1, "its owner lost it"
    until(lambda: house.running("shop.on.sold") == 0)
    with house.wire() as wire:
        assert wire.ask("purge", "shop.on.sold", False, None) == ("done", "[1, null]")
    return Answer("done" if not stolen else "stolen", answers[-1])


DROPPED = "dropped a client that does not speak the protocol: "
BAD = "bad request: "

ROWS = [
    # --- frames
    Row("wire-largest-length", "the largest length there is", "`ff ff ff ff`", "hangs up", f"{DROPPED}a frame of 4294967295 bytes is larger than 67108864",
        dropped(b"\xff\xff\xff\xff")),
    Row("wire-length-over-limit", "one byte over the limit", "a length of 64 MiB + 1", "hangs up", "a frame of 67108865 bytes",
        dropped(struct.pack(">I", 64 * 1024 * 1024 + 1))),
    Row("wire-truncated", "a frame that ends too early", "a request without its last bytes, then the end", "hangs up", "",
        dropped(frame((1, "overview", ()))[:-1], end=True)),
    Row("wire-empty", "an empty frame", "a length of 0", "hangs up", f"{DROPPED}Input data was truncated", dropped(framed(b""))),
    Row("wire-garbage", "no MessagePack", "the byte `c1`", "hangs up", f"{DROPPED}MessagePack data is malformed: invalid opcode", dropped(framed(b"\xc1" * 5))),
    Row("wire-http", "HTTP", "`GET / HTTP/1.1`", "hangs up", f"{DROPPED}a frame of 1195725856 bytes", dropped(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
    Row("wire-json", "JSON", '`[1, "overview", []]` in a frame', "hangs up", "Expected `array`, got `int`", dropped(framed(b'[1, "overview", []]'))),
    Row("wire-deep", "100,000 arrays in each other", "`91` again and again", "hangs up", DROPPED, dropped(framed(b"\x91" * 100_000))),
    Row("wire-too-short", "a request without arguments", "`[1]`", "hangs up", "Expected `array` of at least length 3, got 1", dropped(frame((1,)))),
    Row("wire-trailing", "bytes behind a request", "a request and one byte more", "hangs up", "trailing characters",
        dropped(framed(encode((1, "overview", ())) + b"\x01"))),
    Row("wire-serial-text", "a number that is a text", '`["x", "overview", []]`', "hangs up", "Expected `int`, got `str` - at `$[0]`",
        dropped(frame(("x", "overview", ())))),
    Row("wire-verb-number", "a verb that is a number", "`[1, 5, []]`", "hangs up", "Expected `str`, got `int` - at `$[1]`", dropped(frame((1, 5, ())))),
    # --- verbs
    Row("wire-unknown-verb", "a verb that is none", "`explode`", "BrokerError", f'{BAD}no verb is called "explode"', asked("explode")),
    Row("wire-private-verb", "a method that is no verb", "`_publish_with`", "BrokerError", f'{BAD}no verb is called "_publish_with"', asked("_publish_with", 1)),
    Row("wire-python-verb", "a method of Python", "`__init__`", "BrokerError", f'{BAD}no verb is called "__init__"', asked("__init__", 1)),
    Row("wire-no-arguments", "too few arguments", "`publish` without any", "BrokerError", f'{BAD}"publish": Expected `array` of length 1, got 0', asked("publish")),
    Row("wire-many-arguments", "too many arguments", "`depth` with three", "BrokerError", f'{BAD}"depth": Expected `array` of length 1, got 3',
        asked("depth", "orders", 1, 2)),
    Row("wire-wrong-argument", "an argument of another type", "`depth` of 5", "BrokerError", "Expected `str`, got `int` - at `$[0]`", asked("depth", 5)),
    Row("wire-unknown-queue", "a queue that is not declared", "`depth` of nobody", "NotFound", 'queue "nobody" is not declared; declared are: orders, parcels, shop.on.sold',
        asked("depth", "nobody")),
    Row("wire-other-protocol", "another version of the protocol", "`hello` with protocol 4", "BrokerError",
        "this engine speaks protocol 3, the client 4; restart both with the same chappe", asked("hello", {"protocol": 4, "name": "x"})),
    Row("wire-hello-without-protocol", "no version", "`hello` without protocol", "BrokerError", "missing required field `protocol`", asked("hello", {"name": "x"})),
    Row("wire-claims-what-it-never-held", "a client that claims what it never held", "`hello` with tags", "done", '"kept": []',
        asked("hello", {"protocol": PROTOCOL, "name": "x", "held": [("orders", 2**62), ("nobody", -1)]}), "it may keep nothing"),
    # --- publishing
    Row("wire-nowhere", "no such queue", "`publish` to nowhere", "Unroutable", 'no queue is called "nowhere"; declare it by starting the application',
        asked("publish", posted(key="nowhere"))),
    Row("wire-no-exchange", "no such exchange", "`publish` to an exchange that is none", "Unroutable", 'no exchange is called "nothing"; declared are: events',
        asked("publish", posted("nothing"))),
    Row("wire-delay-nan", "a delay that is no number", "`publish` after NaN seconds", "BrokerError", f'{BAD}"publish": Expected `float` <= 3162240000.0',
        asked("publish", posted("", 0, NAN))),
    Row("wire-delay-infinite", "a delay without an end", "`publish` after infinite seconds", "BrokerError", "Expected `float` <= 3162240000.0",
        asked("publish", posted("", 0, INFINITE))),
    Row("wire-delay-huge", "a delay of more than a century", "`publish` after 1e300 seconds", "BrokerError", "Expected `float` <= 3162240000.0",
        asked("publish", posted("", 0, 1e300))),
    Row("wire-priority-huge", "a priority of 64 bits", "`publish` with 2**64 - 1", "BrokerError", "Expected `int` <= 2147483647",
        asked("publish", posted("", 2**64 - 1))),
    Row("wire-options-wrong", "options of another type", "`publish` with a text for a truth value", "BrokerError", "Expected `bool`, got `str`",
        asked("publish", posted("", 0, 0.0, ("key", "yes")))),
    Row("wire-no-envelope", "an envelope that is none", "`publish` with 5 for an envelope", "BrokerError", f'{BAD}"publish"',
        asked("publish", posted(envelope=5))),
    Row("wire-short-envelope", "an envelope without a body", "`publish` with one of its fields", "BrokerError", f'{BAD}"publish"',
        asked("publish", posted(envelope=("id",)))),
    # --- receiving and settling
    Row("wire-settle-foreign", "a message that another client holds", "`settle` of every tag there is", "done", "stale",
        settled_by_another, "its owner keeps it", passes=1),
    Row("wire-settle-unknown", "a message that nobody holds", "`settle` of tag 12345", "done", '[[12345, "stale", "the delivery was lost to somebody else, or settled already"]]',
        asked("settle", [("ack", 12345)])),
    Row("wire-settle-huge", "a tag of 64 bits", "`settle` of 2**64 - 1", "BrokerError", "Expected `int` <= 9223372036854775807",
        said(framed(b"\x93\x01" + encode("settle") + b"\x91\x91\x92" + encode("ack") + LARGE))),
    Row("wire-settle-otherwise", "an end that is none", "`settle` with explode", "BrokerError", "Invalid value 'explode'", asked("settle", [("explode", 1)])),
    Row("wire-retry-past", "a retry in the past", "`settle` with a retry after -1 s", "BrokerError", "Expected `float` >= 0.0", asked("settle", [("retry", 1, -1.0)])),
    Row("wire-retry-nan", "a retry after no number", "`settle` with a retry after NaN seconds", "BrokerError", "Expected `float` >= 0.0",
        asked("settle", [("retry", 1, NAN)])),
    Row("wire-receive-nobody", "a queue that is not declared", "`receive` from nobody", "NotFound", 'queue "nobody" is not declared',
        asked("receive", ["nobody"], 1, 1.0)),
    Row("wire-receive-huge", "more messages than there can be", "`receive` of 2**64 - 1", "BrokerError", f'{BAD}"receive"',
        asked("receive", ["orders"], 2**64 - 1, 30.0), "others are served meanwhile"),
    Row("wire-receive-nan", "a wait that is no number", "`receive` for NaN seconds", "BrokerError", f'{BAD}"receive"', asked("receive", ["shop.on.sold"], 1, NAN)),
    # --- the store
    Row("wire-budget-nan", "a budget without a pace", "`take` each NaN seconds", "BrokerError", f'{BAD}"take"', asked("take", "budget", NAN, 1, 0.0, 0)),
    Row("wire-budget-infinite", "a budget that never comes again", "`take` each infinite seconds", "BrokerError", f'{BAD}"take"',
        asked("take", "budget", INFINITE, 1, 0.0, 0)),
    Row("wire-slot-nan", "a slot that is no time", "`fire` for NaN", "BrokerError", f'{BAD}"fire"', asked("fire", "schedule", NAN, [])),
    Row("wire-slot-infinite", "a slot at the end of time", "`fire` for infinity", "BrokerError", f'{BAD}"fire"', asked("fire", "schedule", INFINITE, [])),
    Row("wire-progress-huge", "progress of 64 bits", "`progress` of 2**64 - 1", "BrokerError", "Expected `int` <= 9223372036854775807",
        asked("progress", "id", 1, 2**64 - 1, "")),
    Row("wire-no-letter", "a dead letter that is none", "`letter` 77", "NotFound", 'no dead letter has the number 77; "chappe dead list" shows them',
        asked("letter", 77)),
    Row("wire-no-state", "a state that is none", "`look` at zombies", "NotFound", 'no state is called "zombie"; it is running, ready, delayed or dead',
        asked("look", "orders", "zombie", [], "", 1)),
    # --- declaring
    Row("wire-other-exchange", "an exchange that is of another kind already", "`declare` events as a fanout", "TopologyConflict",
        'exchange "events" is topic…declared again as fanout…use one declaration for both',
        asked("declare", {"exchanges": [{"name": "events", "kind": "fanout"}], "queues": []})),
    Row("wire-unknown-kind", "a kind of exchange that is none", "`declare` a round exchange", "BrokerError", "Invalid enum value 'round'",
        asked("declare", {"exchanges": [{"name": "x", "kind": "round"}], "queues": []})),
    Row("wire-unbound", "a queue of an exchange that is none", "`declare` a queue bound to nothing", "NotFound",
        'queue "q" is bound to exchange "nothing", which is not declared',
        asked("declare", {"exchanges": [], "queues": [{"name": "q", "bindings": [{"exchange": "nothing", "key": "a"}]}]})),
    Row("wire-archive-nan", "an archive for no time", "`declare` an archive of NaN seconds", "BrokerError", "Expected `float` >= 0.0 - at `$[0].exchanges[0].archive`",
        asked("declare", {"exchanges": [{"name": "x", "kind": "topic", "archive": NAN}], "queues": []})),
    Row("wire-queue-name", "a queue without a name", "`declare` the queue of no name", "InvalidCapability", "a name has 1 to 255 bytes",
        asked("declare", {"exchanges": [], "queues": [{"name": ""}]})),
]  # fmt: skip
