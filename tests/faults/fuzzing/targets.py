"""Everything that decodes what others wrote, each with valid inputs to begin from and the errors that it documents."""

from __future__ import annotations

import atexit
import datetime
import enum
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import click
import msgspec
from msgspec import Meta, Raw

from chappe import App, Command, Event, Rate, cron
from chappe.cli.sending import parse
from chappe.engines.file import waits
from chappe.engines.file.verbs import DECODERS
from chappe.engines.file.wire import PROTOCOL, UNREADABLE, Frames, decode_answer, decode_request, encode, error_of, frame
from chappe.errors import ChappeError, DefinitionError, InvalidCapability, InvalidMessage, InvalidSettings, MessageError
from chappe.messages.bounds import excess_of
from chappe.messages.codec import JSON, MSGPACK, decode_body, decoder, encode_json
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.template import fields_of, renderer
from chappe.messages.topology import match, passes
from chappe.settings import load


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Line(msgspec.Struct, frozen=True):
    article: Annotated[str, Meta(min_length=1, max_length=40)]
    count: Annotated[int, Meta(ge=1, le=1000)]
    note: str | None = None


class Order(Command, queue="orders"):
    customer: str
    lines: list[Line] = []
    colour: Colour = Colour.RED
    when: datetime.datetime | None = None
    day: datetime.date | None = None
    span: datetime.timedelta | None = None
    payment: Literal["card", "cash"] = "card"


class Scan(Command, queue="scans"):
    image: bytes
    tags: frozenset[int] = frozenset()
    place: tuple[float, float] = (0.0, 0.0)
    more: dict[str, Any] | None = None
    weight: float | int = 0


class Seen(Event):
    at: datetime.datetime
    who: Annotated[str, Meta(pattern="^[a-z]+$")]


KINDS = (Order, Scan, Seen)
NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
MESSAGES: list[Any] = [
    Order(customer="Ada", lines=[Line("pen", 2, "blue")], when=NOW, day=NOW.date(), span=datetime.timedelta(days=1)),
    Scan(image=b"\x00\xff", tags=frozenset({1, 2}), place=(1.5, -2.0), more={"a": [1, None, {"b": 2**60}]}, weight=2.5),
    Seen(at=NOW, who="ada"),
]
ENVELOPE = Envelope("01a1", "order", encode_json(MESSAGES[0]), 1.5, JSON, {"traceparent": "00"}, "c", "r")
POSTED = (ENVELOPE, "orders", "", 1, 0.5, Options(key="k", merges=True, unique="u", unique_for=1.0, idempotency_key="i"))
REQUESTS: dict[str, tuple[Any, ...]] = {
    "hello": ({"protocol": PROTOCOL, "name": "x", "role": "worker", "info": {"pid": 1}, "held": [("orders", 7)]},),
    "receive": (["orders", "scans"], 10, 1.5), "result": ("01a1", 1.0), "cancel": (3,),
    "declare": ({"exchanges": [{"name": "e", "kind": "topic", "archive": 5.0}], "queues": [{"name": "q", "bindings": [{"exchange": "e", "key": "#"}]}]},),
    "publish": ([POSTED],), "settle": ([("ack", 1, [POSTED], b"r", True), ("retry", 2, 1.0, True, "e", "n"), ("dead", 3, "r", "e")],),
    "mark": ("01a1", "h", [POSTED], b"{}"), "take": ("b", 0.1, 2), "fire": ("s", 1.0, [POSTED]), "progress": ("01a1", 1, 2, "t"),
    "archived": (0, 10, "a.#"), "letters": ("q", 0, 10), "retry_letters": ([1, 2],), "edit_letter": (1, b"{}"), "purge": ("q", True, [9, -(2**62), 0]),
    "look": ("q", "ready", [b"x"], "", 5), "ahead": ("q", "[0, 5]"), "depth": ("q",), "await_archived": (3, 1.0), "keep_position": ("f", 7),
}  # fmt: skip
SPECIAL: dict[str, Callable[[Raw], Any]] = {
    "hello": waits._hello,
    "receive": waits._receive,
    "result": waits._result,
    "await_archived": waits._archived,
    "cancel": waits._cancel,
}  # pyright: ignore[reportPrivateUsage]
VERBS: list[tuple[str, Callable[[Raw], Any]]] = [*SPECIAL.items(), *DECODERS.items()]


class Target(NamedTuple):
    """One decoder: how it is called, what it is begun with, which errors may come out, and its share of the executions."""

    name: str
    call: Callable[[bytes], None]
    seeds: list[bytes]
    errors: tuple[type[Exception], ...]
    share: float


def frames(data: bytes) -> None:
    """Cut a stream that comes in pieces, and decode each request."""
    stream, at = Frames(), 0
    step = 1 + len(data) // 3
    while at < len(data):
        for body in stream.feed(data[at : at + step]):
            decode_request(body)
        at += step


def arguments(data: bytes) -> None:
    """Decode the arguments of a verb, which the first byte chooses."""
    if data:
        VERBS[data[0] % len(VERBS)][1](Raw(data[1:]))


def answers(data: bytes) -> None:
    """Decode an answer of the engine, and the error that it describes."""
    answer = decode_answer(data)
    if answer.failure is not None:
        assert isinstance(error_of(answer.failure), ChappeError)


_envelope = msgspec.msgpack.Decoder(Envelope).decode
_publication = msgspec.msgpack.Decoder(Publication).decode


def envelopes(data: bytes) -> None:
    """Decode an envelope, whose types must then hold."""
    found = _envelope(data)
    assert isinstance(found.body, bytes)
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in found.headers.items())
    assert _envelope(msgspec.msgpack.encode(found)) == found or found.timestamp != found.timestamp


_DECODERS = {(kind, form): decoder(kind, form) for kind in KINDS for form in (JSON, MSGPACK)}


def _body(data: bytes, form: str) -> None:
    for kind in KINDS:
        try:
            message = _DECODERS[kind, form](data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if form == JSON:
            assert _DECODERS[kind, JSON](encode_json(message)) == message, "what was read cannot be written and read again"


def bodies_json(data: bytes) -> None:
    """Decode a body as a worker does."""
    _body(data, JSON)


def bodies_msgpack(data: bytes) -> None:
    """Decode a body of the other codec."""
    _body(data, MSGPACK)


def bodies_outside(data: bytes) -> None:
    """Decode a body as HTTP and the command line do, where every fault is named."""
    excess_of(data)
    for kind in KINDS:
        try:
            decode_body(kind, "x", data)
        except InvalidMessage as error:
            assert error.faults


def patterns(data: bytes) -> None:
    """Match a routing key with a pattern, and names with wildcards."""
    pattern, _, key = data.decode("utf-8", "replace").partition("\n")
    for kind in ("topic", "direct", "fanout"):
        passes(kind, pattern, key)
    match([pattern], [key, pattern])


class _Any:
    """Has every field."""

    def __getattr__(self, name: str) -> str:
        return name


def templates(data: bytes) -> None:
    """Read a template and fill it."""
    template = data.decode("utf-8", "replace")
    fields_of(template)
    assert isinstance(renderer(template)(_Any()), str)


def rates(data: bytes) -> None:
    """Read a rate."""
    interval = Rate(data.decode("utf-8", "replace")).interval
    assert 0 < interval < math.inf


_folder = Path(tempfile.mkdtemp(prefix="chappe-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
_toml = _folder / "chappe.toml"
atexit.register(shutil.rmtree, _folder, ignore_errors=True)


def settings(data: bytes) -> None:
    """Read chappe.toml."""
    _toml.write_bytes(data)
    load({}, {}, _toml)


def variables(data: bytes) -> None:
    """Read the environment: names and values by turns."""
    words = data.decode("utf-8", "replace").replace("\0", "").split("\n")
    environment = {f"CHAPPE_{name.upper()}": value for name, value in zip(words[::2], words[1::2], strict=False) if name != "config"}
    load({}, environment)


def crons(data: bytes) -> None:
    """Read a cron expression and a zone, and walk along its slots."""
    expression, _, zone = data.decode("utf-8", "replace").partition("\n")
    trigger, moment = cron(expression, zone or "UTC"), 1_790_000_000.0
    for _ in range(3):
        following = trigger.after(moment)
        assert following > moment
        moment = following


_app = App("fuzz")
_app.knows(*KINDS)


def words(data: bytes) -> None:
    """Read the words behind `chappe send`."""
    name, *fields = data.decode("utf-8", "surrogateescape").split("\n")
    parse(_app, name, tuple(field for field in fields if field != "-"), Command)


WIRE = (*UNREADABLE, ValueError)
_REQUEST_FRAMES = [frame((1, verb, given)) for verb, given in REQUESTS.items()]
_ARGUMENTS = [bytes([n]) + encode(REQUESTS[verb]) for n, (verb, _) in enumerate(VERBS) if verb in REQUESTS]
_BODIES = [encode_json(m) for m in MESSAGES]
_SETTINGS = [
    b'app = "shop:app"\nbroker = "sqlite:///chappe.db"\nhost = "127.0.0.1"\nport = 7070\ntoken = "abcdefghijklmnop"\n',
    b'allowed_hosts = ["a.example:80"]\nallowed_origins = ["https://a.example"]\nmax_body = 1000\ndeadline = 5.0\ngrace = 25\nlog_level = "info"\n',
    b'[pools.push]\nqueues = ["push.*"]\nexclude = ["push.slow"]\nprocesses = 3\nconcurrency = 50\nmax_messages = 10\nmax_age = 60.5\nmax_memory = 512\n',
]
_CRONS = [
    b"*/5 * * * *\nEurope/Paris",
    b"0 4 1-7 * 1-5\nUTC",
    b"30 2 29 2 *",
    b"0 0 L * *",
    b"0 9 * * 1#2\nAustralia/Lord_Howe",
    b"@daily",
    b"15,45 */2 1 1,7 mon",
]

TARGETS = [
    Target("frames", frames, [*_REQUEST_FRAMES, b"".join(_REQUEST_FRAMES[:3])], WIRE, 0.14),
    Target("arguments", arguments, _ARGUMENTS, (*UNREADABLE, ChappeError), 0.16),
    Target("answers", answers, [encode((1, None, [1, "a"])), encode((1, ("NotFound", "no"), None)), encode((1, ("__doc__", ""), None))], UNREADABLE, 0.06),
    Target("envelopes", envelopes, [encode(ENVELOPE), encode(ENVELOPE)[:-2]], UNREADABLE, 0.1),
    Target("bodies, JSON", bodies_json, _BODIES, (), 0.12),
    Target("bodies, MessagePack", bodies_msgpack, [msgspec.msgpack.encode(m) for m in MESSAGES], (), 0.1),
    Target("bodies, outside", bodies_outside, _BODIES, (), 0.08),
    Target("patterns", patterns, [b"a.*.b\na.x.b", b"#.b\na.b", b"*a*a*b\naaaaaaaab", b"#.#.#.#\na.b.c.d.e.f.g.h"], (), 0.08),
    Target("templates", templates, [b"push.{channel}", b"{a}.{b}-{{x}}", b"%s{a}"], (InvalidCapability,), 0.04),
    Target("rates", rates, [b"10/s", b"100/min", b"5/10s", b" 1 / 3 hour "], (InvalidCapability,), 0.03),
    Target("settings", settings, _SETTINGS, (InvalidSettings,), 0.03),
    Target("variables", variables, [b"port\n7070\ngrace\n5.5", b"allowed_hosts\na.example,b.example\nlog_level\ninfo", b"broker\nsqlite:///x.db"], (InvalidSettings,), 0.02),
    Target("crons", crons, _CRONS, (DefinitionError,), 0.02),
    Target("words", words, [b"order\ncustomer=Ada\ncolour=b\nlines:=[]", b'order\n{"customer": "Ada"}', b"scan\nimage=AP8=\ntags:=[1]"],
           (MessageError, click.UsageError), 0.02),
]  # fmt: skip
