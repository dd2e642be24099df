"""The rows that the bench measures, each with its unit and with what it must reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

Medians = Mapping[tuple[str, str], float]
"""The median of each row, by work and system."""


class Bound(NamedTuple):
    """What a figure must reach, given those of the same session: none if it cannot be known."""

    text: str
    limit: Callable[[Medians], float | None]
    at_least: bool

    def kept(self, value: float, medians: Medians) -> bool | None:
        """Tell whether a figure is good enough; none if what it is compared with was not measured."""
        limit = self.limit(medians)
        if limit is None:
            return None
        return value >= limit if self.at_least else value <= limit


class Work(NamedTuple):
    """One row for each system that can do it.

    `bounds` and `aims` are for the engine in a file, `postgres` for PostgreSQL alone, `far` for RabbitMQ beside it.
    """

    name: str
    unit: str
    bounds: tuple[Bound, ...] = ()
    aims: tuple[Bound, ...] = ()
    far: tuple[Bound, ...] = ()
    postgres: tuple[Bound, ...] = ()


class Figure(NamedTuple):
    """What one run of one work gave."""

    work: Work
    value: float


def _fixed(value: float) -> Callable[[Medians], float | None]:
    def limit(_: Medians) -> float | None:
        return value

    return limit


def _of(system: str, work: str, factor: float = 1.0) -> Callable[[Medians], float | None]:
    def limit(medians: Medians) -> float | None:
        found = medians.get((work, system))
        return None if found is None else factor * found

    return limit


def at_least(value: float) -> Bound:
    """A figure that must not be smaller."""
    return Bound(f"≥ {value:,g}", _fixed(value), at_least=True)


def at_most(value: float) -> Bound:
    """A figure that must not be larger."""
    return Bound(f"≤ {value:,g}", _fixed(value), at_least=False)


def times(factor: float, system: str, work: str) -> Bound:
    """So many times what another system did in the same session."""
    return Bound(f"≥ {factor:g} × {system}", _of(system, work, factor), at_least=True)


def not_above(system: str, work: str) -> Bound:
    """Not above what another system did in the same session."""
    return Bound(f"≤ {system}", _of(system, work), at_least=False)


def not_below(work: str) -> Bound:
    """Not below what Chappe did in another work of the same session."""
    return Bound(f"≥ {work}", _of("chappe", work), at_least=True)


def _below_peers(work: str) -> tuple[Bound, ...]:
    return not_above("dramatiq", work), not_above("huey", work)


MESSAGES: Final = "messages/s"
_DRAIN: Final = "drain, one worker process"
_DRAIN_TWO: Final = "drain, two worker processes"
_SEND: Final = "send one by one"
_P50, _P99 = "idle: send to handler start, p50", "idle: send to handler start, p99"
_UNHARMED: Final = at_least(0.8)

DRAIN_ONE = Work(
    _DRAIN, MESSAGES, (times(8, "huey", _DRAIN), times(0.25, "limit", _DRAIN)), (at_least(120_000),), (times(2.5, "dramatiq", _DRAIN),),
    (times(4, "procrastinate", _DRAIN), times(2, "pgqueuer", _DRAIN)),
)  # fmt: skip
DRAIN_TWO = Work(_DRAIN_TWO, MESSAGES, (not_below(_DRAIN),), far=(times(2, "dramatiq", _DRAIN_TWO),), postgres=(not_below(_DRAIN),))
WORKER_CPU = Work("drain, one worker process: worker CPU for each message", "µs", (at_most(12),))
DRAIN_HELD = Work("drain beside a transaction held open : without", "ratio", postgres=(_UNHARMED,))
DRAIN_WATCHED = Work("drain watched by three pages of the dashboard : without", "ratio", (at_least(0.95),), postgres=(at_least(0.95),))

SEND = Work(_SEND, MESSAGES, (at_least(6_000),), far=(times(1, "pika", _SEND),))
ASEND = Work("asend one by one", MESSAGES)
EIGHT_TASKS = Work("eight tasks asend at once", MESSAGES, (at_least(18_000),))
EIGHT_THREADS = Work("eight threads send at once", MESSAGES)
EIGHT_PROCESSES = Work("eight processes send at once", MESSAGES)
SEND_HUNDREDS = Work("send by 100", MESSAGES, (at_least(120_000),), far=(at_least(25_000),), postgres=(at_least(25_000),))
DISK_SYNC = Work("one disk sync (overwrite of 8 KiB)", "µs")

TOGETHER = Work("send by 100 and drain at once, end to end", MESSAGES, (at_least(40_000),))

SEND_P50 = Work(_P50, "ms", (at_most(0.9),), _below_peers(_P50), (at_most(0.8),))
SEND_P99 = Work(_P99, "ms", (at_most(1.6),), _below_peers(_P99), (at_most(2.0),))
ASEND_P50 = Work("idle: asend to handler start, p50", "ms", (at_most(0.9),), _below_peers(_P50), far=(at_most(0.8),))
ASEND_P99 = Work("idle: asend to handler start, p99", "ms", (at_most(1.6),), _below_peers(_P99), far=(at_most(2.0),))

DRAIN_SHALLOW = Work("drain, shallow backlog", MESSAGES)
DRAIN_DEEP = Work("drain, deep backlog", MESSAGES)
DRAIN_DEPTH = Work("drain, deep : shallow backlog", "ratio", (at_least(0.9),), far=(at_least(0.85),), postgres=(at_least(0.85),))
P99_SHALLOW = Work("send p99, shallow backlog", "ms")
P99_DEEP = Work("send p99, deep backlog", "ms")
P99_DEPTH = Work("send p99, deep : shallow backlog", "ratio", (at_most(1.1),))

DRAIN_BURNING = Work("drain, beside a burning worker : without", "ratio", (_UNHARMED,))
SEND_BURNING = Work("send one by one, beside a burning worker : without", "ratio", (_UNHARMED,))
DRAIN_STRANGER = Work("drain, beside a burning stranger : without", "ratio")
SEND_STRANGER = Work("send one by one, beside a burning stranger : without", "ratio")

POST = Work("POST, 64 connections, one gateway process", "answers/s", (at_least(4_000),))
POST_CLIENT = Work("POST, 64 connections: CPU of the client beside it", "% of one core")
POST_P99 = Work("POST, 64 connections, one gateway process, p99", "ms", (at_most(30),))

IDLE_CPU = Work("ten idle workers and the engine: CPU", "% of one core", (at_most(1),))
IDLE_PSS = Work("ten idle workers and the engine: PSS", "MB", (at_most(250),))
RUN_CPU = Work("chappe run with ten idle workers, without gateway: CPU", "% of one core")
RUN_PSS = Work("chappe run with ten idle workers, without gateway: PSS", "MB")

NOT_ARCHIVED = Work("publish by 100, an exchange that archives nothing", MESSAGES)
_KEPT = (Bound(f"≥ 0.8 × {NOT_ARCHIVED.name}", _of("chappe", NOT_ARCHIVED.name, 0.8), at_least=True),)
ARCHIVED = Work("publish by 100, an exchange that archives", MESSAGES, _KEPT, postgres=_KEPT)
ARCHIVE_CPU = Work("publish by 100, CPU without the archive : with it", "ratio", (_UNHARMED,), postgres=(_UNHARMED,))

PAUSES = Work("61 handlers of 0.8 s, one worker process", "s", (at_most(0.95),))
BLOCKS = Work("61 handlers of 0.8 s in threads, one worker process", "s", (at_most(1.0),))


def _push(work: str) -> tuple[tuple[Bound, ...], tuple[Bound, ...]]:
    must = Bound("≤ 0.8 × send_text", _of("send_text", work, 0.8), at_least=False)
    return (must,), (Bound("≤ 1.2 × raw", _of("raw", work, 1.2), at_least=False),)


_PUSH_P50, _PUSH_P99 = "push to the last WebSocket, p50", "push to the last WebSocket, p99"
PUSH_P50, PUSH_P99 = Work(_PUSH_P50, "ms", *_push(_PUSH_P50)), Work(_PUSH_P99, "ms", *_push(_PUSH_P99))
PUSH_SSE_P50 = Work("push to the last stream of server-sent events, p50", "ms", *_push(_PUSH_P50))
PUSH_SSE_P99 = Work("push to the last stream of server-sent events, p99", "ms", *_push(_PUSH_P99))
PUSH_UNREAD = Work("push to the last WebSocket that reads, p99, beside 20 that do not : without", "ratio", (at_most(1.3),))

AT_ONCE = Work("handlers of 5 ms, five at once, sent in one call", "handlers/s")
_SINGLY = (Bound(f"≥ 0.8 × {AT_ONCE.name}", _of("chappe", AT_ONCE.name, 0.8), at_least=True),)
ONE_BY_ONE = Work("handlers of 5 ms, five at once, sent one by one", "handlers/s", _SINGLY, far=_SINGLY, postgres=_SINGLY)

MASK = Work("mask to a pending key, send one by one", MESSAGES, (at_least(5_000),))
AMASK = Work("mask to a pending key, asend one by one", MESSAGES, (at_least(5_000),))
MASK_FOUR = Work("masks to pending keys, four processes send one by one", MESSAGES, far=(at_least(4_000),), postgres=(at_least(4_000),))
MASK_HUNDREDS = Work("masks to pending keys, send by 100", MESSAGES, (at_least(40_000),))

FAIR_DRAIN = Work(
    "drain, a thousand tenants : without", "ratio", (at_least(0.5),), far=(at_least(0.5),), postgres=(at_least(0.5),)
)  # fmt: skip
FAIR_FIRST = Work("first start of a tenant behind 100,000 of another, jobs of 10 ms", "ms", (at_most(110),))

SUPERVISED_REPLACED = Work("killed worker to its replacement's first message, p50", "ms", (at_most(300),))
SUPERVISED_PSS = Work("70 forked workers of read later : 70 interpreters, PSS", "ratio", (at_most(0.25),), (at_most(0.125),))
SUPERVISED_PSS_LATER = Work("70 forked workers : 70 interpreters, PSS after 10,000 jobs", "ratio", (at_most(0.25),), (at_most(0.125),))
SUPERVISED_MANY = Work("400 processes up", "s", (at_most(60),))
SUPERVISED_ORPHANS = Work("killed supervisor to the end of the last of its 400 processes", "s", (at_most(15),))
SUPERVISED_TAKEOVER = Work("killed supervisor to the next in charge", "s", (at_most(3),))
SUPERVISED_CRASHING = Work("send to handler start beside 60 that crash : without, p50", "ratio", (at_most(1.5),))

WORKS: Final = (
    DRAIN_ONE, DRAIN_TWO, WORKER_CPU, DRAIN_HELD, DRAIN_WATCHED,
    SEND, ASEND, EIGHT_TASKS, EIGHT_THREADS, EIGHT_PROCESSES, SEND_HUNDREDS, DISK_SYNC,
    TOGETHER,
    SEND_P50, SEND_P99, ASEND_P50, ASEND_P99,
    DRAIN_SHALLOW, DRAIN_DEEP, DRAIN_DEPTH, P99_SHALLOW, P99_DEEP, P99_DEPTH,
    DRAIN_BURNING, SEND_BURNING, DRAIN_STRANGER, SEND_STRANGER,
    POST, POST_P99, POST_CLIENT,
    IDLE_CPU, IDLE_PSS, RUN_CPU, RUN_PSS,
    NOT_ARCHIVED, ARCHIVED, ARCHIVE_CPU,
    PUSH_P50, PUSH_P99, PUSH_SSE_P50, PUSH_SSE_P99, PUSH_UNREAD,
    PAUSES, BLOCKS, AT_ONCE, ONE_BY_ONE,
    MASK, AMASK, MASK_FOUR, MASK_HUNDREDS,
    FAIR_DRAIN, FAIR_FIRST,
    SUPERVISED_REPLACED, SUPERVISED_PSS, SUPERVISED_PSS_LATER, SUPERVISED_MANY, SUPERVISED_ORPHANS, SUPERVISED_TAKEOVER,
    SUPERVISED_CRASHING,
)  # fmt: skip
