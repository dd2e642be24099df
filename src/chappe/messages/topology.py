"""Exchanges, queues and bindings, and what two declarations of one of them may not disagree on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict, Unpack

from msgspec import Struct

from chappe.errors import InvalidCapability, NotFound, TopologyConflict, Unroutable
from chappe.messages.capabilities import Exchange, refuse_bad_name

EVENTS: Final = Exchange("events", "topic", archive=30 * 86400.0)


class Binding(Struct, frozen=True, order=True):
    """What of an exchange goes to a queue: on a topic exchange `*` stands for one word, `#` for any number.

    `type` is that of messages of other programs that come by it without one.
    """

    exchange: str
    key: str = ""
    type: str = ""


class Queue(Struct, frozen=True):
    """A named queue with all its bindings; `origin` says who declared it, for the conflict message.

    `type` is that of messages of other programs that come without one, by no binding that has one. `fair` says that there are messages
    of tenants in it.
    For RabbitMQ alone: `passive` says that it is another program's, which is only looked for; `kind`, `durable` and
    `arguments` are how it is declared.
    """

    name: str
    bindings: tuple[Binding, ...] = ()
    origin: str = ""
    type: str = ""
    kind: Literal["quorum", "classic"] = "quorum"
    durable: bool = True
    passive: bool = False
    arguments: Mapping[str, Any] = {}
    fair: bool = False

    def __post_init__(self) -> None:
        refuse_bad_name("queue", self.name)
        if self.kind not in ("quorum", "classic"):
            raise InvalidCapability(f'queue "{self.name}": kind={self.kind!r} must be "quorum" or "classic"')
        if self.kind == "quorum" and not self.durable:
            raise InvalidCapability(f'queue "{self.name}": durable=False needs kind="classic"; quorum queues are always durable')


class QueueOptions(TypedDict, total=False):
    """What may be said of a queue beside its name and bindings: see `Queue`."""

    origin: str
    type: str
    kind: Literal["quorum", "classic"]
    durable: bool
    passive: bool
    arguments: Mapping[str, Any]
    fair: bool


class Topology(Struct, frozen=True):
    """Everything an application declares."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()


def bind(name: str, *bindings: str | Binding, **options: Unpack[QueueOptions]) -> Queue:
    """Return a queue bound by `"exchange:key"` strings: `bind("push.ical", "channels:push.ical.*")`; options are those of `Queue`."""
    parsed = tuple(b if isinstance(b, Binding) else Binding(*b.partition(":")[::2]) for b in bindings)
    return Queue(name, tuple(sorted(set(parsed))), **options)


def refuse_conflict(known: Queue, again: Queue) -> None:
    """Raise `TopologyConflict` if the second declaration of a queue has other bindings.

    In AMQP the bindings of both would add up, and each consumer would get what only the other asked for.
    """
    if _pairs(known) != _pairs(again):
        raise TopologyConflict(
            f'queue "{known.name}" is declared twice with different keys: {_listed(known)} by {known.origin or "an unnamed program"}, '
            f"{_listed(again)} by {again.origin or 'an unnamed program'}; give one of them another name, "
            f'or change the first declaration with "chappe purge --delete {known.name}" once it is empty'
        )


def refuse_other_kind(known: Exchange, again: Exchange) -> None:
    """Raise `TopologyConflict` if the second declaration of an exchange is of another kind or archive.

    What RabbitMQ alone knows of it is RabbitMQ's to compare.
    """
    if (known.kind, known.archive, known.archive_bytes) != (again.kind, again.archive, again.archive_bytes):
        raise TopologyConflict(
            f'exchange "{known.name}" is {_archiving(known)} and was declared again as {_archiving(again)}; use one declaration for both'
        )


def _archiving(exchange: Exchange) -> str:
    bound = f", {exchange.archive_bytes} bytes" if exchange.archive_bytes else ""
    return f"{exchange.kind} (archive {exchange.archive:g} s{bound})"


def type_of(queue: Queue, exchanges: Mapping[str, Exchange], exchange: str, routing_key: str) -> str:
    """Return the type of a message without one by the way it came, or nothing."""
    known = exchanges.get(exchange)
    if known is not None:
        for binding in queue.bindings:
            if binding.type and binding.exchange == exchange and passes(known.kind, binding.key, routing_key):
                return binding.type
    return queue.type


def _pairs(queue: Queue) -> list[tuple[str, str]]:
    return sorted({(b.exchange, b.key) for b in queue.bindings})


def _listed(queue: Queue) -> str:
    return ", ".join(f'"{exchange}:{key}"' for exchange, key in _pairs(queue)) or "no binding"


def takers(
    exchanges: Mapping[str, Exchange], queues: Mapping[str, Iterable[tuple[str, str]]], exchange: str, routing_key: str
) -> list[str]:
    """Return the queues that take this routing key, or raise `Unroutable`; an archive is taker enough.

    `queues` has the bindings of each as pairs of exchange and key.
    """
    if exchange == "":
        if routing_key not in queues:
            raise Unroutable(f'no queue is called "{routing_key}"; declare it by starting the application that handles it')
        return [routing_key]
    known = exchanges.get(exchange)
    if known is None:
        raise Unroutable(f'no exchange is called "{exchange}"; declared are: {", ".join(sorted(exchanges)) or "none"}')
    found = [name for name, bindings in queues.items() if any(b[0] == exchange and passes(known.kind, b[1], routing_key) for b in bindings)]
    if not found and known.archive == 0:
        raise Unroutable(f'no queue takes "{routing_key}" from exchange "{exchange}"; bind one, or archive the exchange')
    return found


def merged(
    topology: Topology, exchanges: Mapping[str, Exchange], queues: Mapping[str, Queue]
) -> tuple[dict[str, Exchange], dict[str, Queue]]:
    """Return what of a topology is new beside what is declared; raises `TopologyConflict`, or `NotFound` for an unknown exchange."""
    new_exchanges: dict[str, Exchange] = {}
    for exchange in topology.exchanges:
        refuse_other_kind(exchanges.get(exchange.name) or new_exchanges.setdefault(exchange.name, exchange), exchange)
    new_queues: dict[str, Queue] = {}
    for queue in topology.queues:
        refuse_conflict(queues.get(queue.name) or new_queues.setdefault(queue.name, queue), queue)
        for binding in queue.bindings:
            if binding.exchange not in exchanges and binding.exchange not in new_exchanges:
                raise NotFound(f'queue "{queue.name}" is bound to exchange "{binding.exchange}", which is not declared')
    return new_exchanges, new_queues


def passes(kind: Literal["direct", "topic", "fanout"], key: str, routing_key: str) -> bool:
    """Tell whether a routing key passes a binding (AMQP 0-9-1, §3.1.3)."""
    if kind == "fanout":
        return True
    if kind == "direct":
        return key == routing_key
    return _fits(_words(key), _words(routing_key))


def _words(key: str) -> list[str]:
    return key.split(".") if key else []  # as RabbitMQ has it: the empty key has no words


def _fits(pattern: Sequence[str], words: Sequence[str]) -> bool:
    reachable = {0}  # how many words the pattern so far may have used up
    for part in pattern:
        if part == "#":
            reachable = set(range(min(reachable), len(words) + 1))
        else:
            reachable = {n + 1 for n in reachable if n < len(words) and part in ("*", words[n])}
        if not reachable:
            return False
    return len(words) in reachable


def match(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the names that fit any of the patterns, where `*` stands for anything; in time that only their lengths decide."""
    wanted = [_globbed(pattern) for pattern in patterns]
    return [name for name in names if any(fits(name) for fits in wanted)]


def _globbed(pattern: str) -> Callable[[str], object]:
    first, *others = map(re.escape, pattern.split("*"))
    middle = "".join(f"(?>.*?{part})" for part in others[:-1])  # the first place is as good as any: what follows is only further right
    return re.compile(first + middle + (f".*{others[-1]}" if others else ""), re.DOTALL).fullmatch
