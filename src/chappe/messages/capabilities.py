"""How a message wants to be treated, declared as keywords of its class."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypedDict, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from chappe.bounds import FURTHEST, Seconds
from chappe.errors import InvalidCapability

_PERIODS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE: Final = re.compile(
    r"\s*0*([1-9]\d{0,8})\s*/\s*(?:0*([1-9]\d{0,5}))?\s*(s(?:ec(?:ond)?)?|m(?:in(?:ute)?)?|h(?:our)?|d(?:ay)?)\s*", re.ASCII
)
_NAMED: Final = re.compile(r"[^\s,*\x00-\x1f\x7f-\x9f](?:[^,*\x00-\x1f\x7f-\x9f]*[^\s,*\x00-\x1f\x7f-\x9f])?")


Count = Annotated[int, Meta(ge=1, lt=2**31)]
Duration = Annotated[float, Meta(gt=0, le=FURTHEST)]


def refuse_bad_name(what: str, name: object) -> None:
    """Raise `InvalidCapability` for a name of a queue or exchange that could not be written everywhere."""
    if not isinstance(name, str) or len(name.encode(errors="replace")) > 255 or not _NAMED.fullmatch(name):
        shown = repr(name)[:60]
        raise InvalidCapability(f"{what} {shown}: a name has 1 to 255 bytes, no comma, asterisk or control character, no space at its ends")


@functools.cache
def _types_of(kind: type[Struct]) -> Mapping[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


class Checked(Struct, frozen=True):
    """A record whose fields are checked by their types when it is made, too; raises `InvalidCapability`."""

    def __post_init__(self) -> None:
        for name, kind in _types_of(type(self)).items():
            value = getattr(self, name)
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError as error:
                known = ", ".join(f'"{one}"' for one in get_args(kind)) if get_origin(kind) is Literal else ""
                raise InvalidCapability(f"{type(self).__name__}({name}={value!r}): {(known and f'known are {known}') or error}") from None


class Retry(Checked, frozen=True):
    """How often and how soon a failed message is handled again.

    `attempts` counts all of them, the first included; the pause before attempt *n* + 1 is
    `delay * factor ** (n - 1)` seconds, at most `most`, less a random part of up to `jitter` of it.
    """

    attempts: Count = 8
    delay: Seconds = 1.0
    factor: Annotated[float, Meta(ge=1, le=1000)] = 3.0
    most: Seconds = 3600.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2


def _interval(owner: str, limit: str) -> float:
    match = _RATE.fullmatch(limit)
    if match is None:
        raise InvalidCapability(f'{owner}("{limit[:40]}"): write it like "10/s", "100/min" or "5/10s"')
    return _PERIODS[match[3][0]] * int(match[2] or 1) / int(match[1])


class Rate(Checked, frozen=True):
    """How many messages may start in a period, across all workers: `Rate("10/s", key="{channel}")`.

    The message waits its turn without holding a slot. `key` splits the budget by fields; `burst` is how
    many may start at once (default: one period's worth is spread evenly, so 1).
    """

    limit: str
    key: str = ""
    burst: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.interval

    @property
    def interval(self) -> float:
        """Seconds between two starts at the steady rate."""
        return _interval("Rate", self.limit)


class Budget(Checked, frozen=True):
    """An account of a third party that several kinds of messages call: `Budget("pocket:{user}", "15/15min")`.

    Fields in braces make one for each account. Without a limit it is learned from what is refused: see `Context.throttle`.
    """

    name: Annotated[str, Meta(min_length=1)]
    limit: str | None = None
    burst: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.interval

    @property
    def interval(self) -> float | None:
        """Seconds between two starts, or nothing if that is learned."""
        return None if self.limit is None else _interval("Budget", self.limit)


class Unique(Checked, frozen=True):
    """At most one message per key: `Unique("{user_id}")`.

    Without `window` the key is free again when the message is done or dead; with it, after so many seconds.
    """

    key: str
    window: Duration | None = None


class Process(Checked, frozen=True):
    """Handle each message in a process of its own, for what computes for long: `Process(memory=512)`.

    `memory` is how many MiB of memory such a process may hold, the application itself included.
    """

    memory: Count | None = None


class Exchange(Checked, frozen=True):
    """A named exchange; what is published there is archived for `archive` seconds (0: not at all).

    With `archive_bytes`, the oldest of it goes earlier where all of it is larger; RabbitMQ, whose archive is one for all exchanges, does
    not know that bound. For RabbitMQ alone: `passive` says that it is another program's, which is only looked for; `durable`, `auto_delete`
    and `arguments` are how it is declared, which must be as others declare it. It is bound to again when it came back.
    """

    name: str
    kind: Literal["direct", "topic", "fanout"] = "topic"
    archive: Seconds = 0.0
    archive_bytes: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    durable: bool = True
    auto_delete: bool = False
    passive: bool = False
    arguments: Mapping[str, Any] = {}

    @property
    def is_lasting(self) -> bool:
        """Tell whether it stays for as long as nobody deletes it, because it is ours and durable."""
        return self.durable and not self.auto_delete and not self.passive

    def __post_init__(self) -> None:
        refuse_bad_name("exchange", self.name)
        super().__post_init__()
        if self.archive_bytes and not self.archive:
            raise InvalidCapability(f'exchange "{self.name}": archive_bytes bounds an archive, and there is none without archive=seconds')


class Capabilities(TypedDict, total=False):
    """The keywords that a message class takes, each with its meaning.

    name, aliases: what it is called on the wire. queue: where it waits (fields in braces must be
    enumerations); a command that names none waits in the queue `default` of its application. inline: a command that is
    handled where it is sent, before `send` returns, by no worker. exchange, routing_key: publish there instead.
    key: at most one running per key, in order; with a `merge` method also at most one pending.
    fair: whose share of the workers' time it counts against. unique: refuse doubles. priority: larger first.
    delay: seconds before it is ready. budget: the accounts of third parties that it calls. retry, rate,
    timeout: see their classes; timeout is seconds for one attempt, kill_after the seconds after which the worker
    itself is ended. process: handle it in a process of its own, which is what `kill_after` ends then. ttl: seconds
    after which it is too old to start. results: keep what the handlers return, so that anybody can fetch it by id.
    """

    name: str
    aliases: tuple[str, ...]
    queue: str
    inline: bool
    exchange: str | Exchange
    routing_key: str
    key: str
    fair: str
    unique: str | Unique
    priority: int
    delay: float
    retry: int | Retry
    rate: str | Rate
    budget: str | Budget | tuple[str | Budget, ...]
    timeout: float
    kill_after: float
    process: bool | Process
    ttl: float
    results: bool


class MessageSpec(Struct, frozen=True):
    """The capabilities of one message class, checked and completed."""

    name: str
    aliases: tuple[str, ...] = ()
    queue: str | None = None
    inline: bool = False
    exchange: Exchange | None = None
    routing_key: str | None = None
    key: str | None = None
    merges: bool = False
    fair: str | None = None
    unique: Unique | None = None
    priority: Annotated[int, Meta(ge=-(2**31), lt=2**31)] = 0
    delay: Seconds = 0.0
    retry: Retry = Retry()
    rate: Rate | None = None
    budget: tuple[Budget, ...] = ()
    timeout: Duration | None = None
    kill_after: Duration | None = None
    process: Process | None = None
    ttl: Duration | None = None
    results: bool = False


KNOWN: Final = frozenset(Capabilities.__annotations__)
DEFAULT_QUEUE: Final = "default"
_SHORT: Final[dict[str, tuple[type, Callable[[Any], Any]]]] = {
    "retry": (int, Retry), "rate": (str, Rate), "unique": (str, Unique), "exchange": (str, Exchange),
    "process": (bool, lambda wanted: Process() if wanted else None),
}  # fmt: skip
_NEED_A_QUEUE: Final = (
    "queue", "exchange", "routing_key", "key", "fair", "unique", "priority", "delay", "retry", "kill_after", "process",
    "ttl", "results",
)  # fmt: skip


def wire_name(class_name: str) -> str:
    """Return a class's name on the wire: its words in lower case, joined by dots."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+|[0-9]+", class_name)
    return ".".join(word.lower() for word in words) or class_name.lower()


def refuse_unknown(owner: str, keywords: Mapping[str, Any]) -> None:
    """Raise `InvalidCapability` for the first keyword that is no capability, with a suggestion."""
    for keyword in keywords:
        if keyword not in KNOWN:
            near = difflib.get_close_matches(keyword, KNOWN, n=1, cutoff=0.5)
            hint = f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(sorted(KNOWN))}"
            raise InvalidCapability(f'{owner}: unknown capability "{keyword}", {hint}')


def complete(owner: str, given: Mapping[str, Any], *, merges: bool, is_command: bool = True) -> MessageSpec:
    """Check the keywords of one class and fill in what was left out.

    Raises `InvalidCapability`, naming the class, the keyword and what would be right.
    """
    refuse_unknown(owner, given)
    values: dict[str, Any] = {"name": wire_name(owner), **given}
    for keyword, (short, make) in _SHORT.items():
        if type(values.get(keyword)) is short:
            values[keyword] = make(values[keyword])
    if "budget" in values:
        budgets = values["budget"] if type(values["budget"]) in (tuple, list) else (values["budget"],)
        values["budget"] = tuple(Budget(one) if isinstance(one, str) else one for one in budgets)
    if is_command and "queue" not in values and "exchange" not in values and values.get("inline") is not True:
        values["queue"] = DEFAULT_QUEUE
    try:
        spec = msgspec.convert({**values, "merges": merges}, MessageSpec, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        fault, _, place = str(error).partition(" - at `$.")
        raise InvalidCapability(f"{owner}: {place.rstrip('`') or 'a capability'}: {fault}") from None
    _refuse_contradictions(owner, values, merges=merges)
    if spec.inline:
        _refuse_inline(owner, given, is_command=is_command)
    return spec


def _refuse_inline(owner: str, given: Mapping[str, Any], *, is_command: bool) -> None:
    if not is_command:
        raise InvalidCapability(f"{owner}: inline=True is for commands; an event goes to the queues of its subscribers")
    for keyword in _NEED_A_QUEUE:
        if keyword in given:
            raise InvalidCapability(f"{owner}: inline=True is handled where it is sent, in no queue, so {keyword}= means nothing")


def _refuse_contradictions(owner: str, values: Mapping[str, Any], *, merges: bool) -> None:
    if "queue" in values:
        refuse_bad_name(f"{owner}: queue", values["queue"])
    if merges and "key" not in values:
        raise InvalidCapability(f'{owner}: has a merge method but no key; say which pending messages are one: key="{{field}}"')
    if merges and "unique" in values:
        raise InvalidCapability(f"{owner}: has both merge and unique; a second pending message is either merged or refused")
    if "routing_key" in values and "exchange" not in values:
        raise InvalidCapability(f"{owner}: routing_key needs an exchange to be published to")
    if "exchange" in values and "routing_key" not in values and "queue" not in values:
        raise InvalidCapability(f"{owner}: exchange needs a routing_key (or a queue to be bound by its own name)")
    for name in (values["name"], *values.get("aliases", ())):
        if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name) or len(name) > 255:
            raise InvalidCapability(f'{owner}: name="{name}" must be lower-case words joined by dots')
