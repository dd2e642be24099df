"""Which systems are measured beside Chappe, in which settings, and what each of them promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Commands = tuple[tuple[str, ...], ...]
"""How workers are started: one line for each program, beginning with a script of the peers' environment."""


class Peer(NamedTuple):
    """A system in one setting; one without workers is measured only where it sends."""

    system: str
    application: str
    promise: str
    one: Commands = ()
    two: Commands = ()
    environment: Mapping[str, str] = {}
    over: Literal["", "rabbitmq", "postgres"] = "rabbitmq"


_HUEY: Final = ("huey_consumer", "benchmarks.peers.huey_application.huey", "-q")
_OFTEN: Final = ("-d", "0.001", "-m", "0.01")
_DRAMATIQ: Final = ("dramatiq", "benchmarks.peers.dramatiq_application", "-t", "1")
_CELERY: Final = ("celery", "-A", "benchmarks.peers.celery_application", "worker", "-l", "WARNING", "-P", "solo")
_ALONE: Final = ("--without-gossip", "--without-mingle", "--without-heartbeat")

HUEY = Peer(
    "huey", "huey_application", "at most once; sends are synced",
    one=((*_HUEY, "-k", "process", *_OFTEN),), two=((*_HUEY, "-k", "process", "-w", "2", *_OFTEN),), over="",
)  # fmt: skip
"""As fast as with its defaults, and fifty times sooner awake: it looks every millisecond."""

HUEY_DEFAULTS = Peer(
    "huey-defaults", "huey_application", "at most once; sends are synced",
    one=(_HUEY,), two=((*_HUEY, "-k", "process", "-w", "2"),), over="",
)  # fmt: skip
"""As it is installed."""

DRAMATIQ = Peer(
    "dramatiq", "dramatiq_application", "at least once; sends are not confirmed",
    one=((*_DRAMATIQ, "-p", "1"),), two=((*_DRAMATIQ, "-p", "2"),), environment={"dramatiq_queue_prefetch": "500"},
)  # fmt: skip
"""One thread and many prefetched tasks: twice as fast as its eight threads."""

DRAMATIQ_CONFIRMED = Peer("dramatiq-confirmed", "dramatiq_application", "sends are confirmed", environment={"BENCH_CONFIRMED": "1"})

CELERY = Peer(
    "celery", "celery_application", "at least once; sends are not confirmed",
    one=((*_CELERY, *_ALONE),), two=((*_CELERY, *_ALONE, "-n", "a@bench"), (*_CELERY, *_ALONE, "-n", "b@bench")),
    environment={"BENCH_PREFETCH": "500"},
)  # fmt: skip
"""Solo workers, one program each, and many prefetched tasks: three times as fast as its pool of processes."""

CELERY_CONFIRMED = Peer("celery-confirmed", "celery_application", "sends are confirmed", environment={"BENCH_CONFIRMED": "1"})

PIKA = Peer("pika", "pika_application", "sends are confirmed, to a quorum queue")
"""No system, but the library that most programs send with: its blocking connection, which waits for each confirmation."""

_PROCRASTINATE: Final = (
    "procrastinate", "--app=benchmarks.peers.procrastinate_application.app", "worker", "--concurrency", "10", "--delete-jobs", "successful",
)  # fmt: skip
PROCRASTINATE = Peer(
    "procrastinate", "procrastinate_application", "at least once; sends are synced",
    one=(_PROCRASTINATE,), two=(_PROCRASTINATE, _PROCRASTINATE), over="postgres",
)  # fmt: skip
"""Ten at once, and what is done is deleted: twice as fast as with its defaults."""

_PGQUEUER: Final = ("python", "-m", "benchmarks.peers.pgqueuer_application")
PGQUEUER = Peer(
    "pgqueuer", "pgqueuer_application", "at least once; sends are synced",
    one=(_PGQUEUER,), two=(_PGQUEUER, _PGQUEUER), over="postgres",
)  # fmt: skip
"""Claims by 100: twice as fast as its ten."""

_DJANGO: Final = ("python", "-m", "django", "db_worker", "--queue-name", "*", "--interval", "0.001", "--no-startup-delay")
DJANGO = Peer(
    "django-tasks", "django_application", "at most once; sends are synced",
    one=(_DJANGO,), two=(_DJANGO, _DJANGO), environment={"DJANGO_SETTINGS_MODULE": "benchmarks.peers.django_settings"}, over="",
)  # fmt: skip
"""Its own database backend, which looks every millisecond."""

WORKING: Final = (HUEY, HUEY_DEFAULTS, DJANGO, DRAMATIQ, CELERY)
SENDING: Final = (HUEY, DJANGO, DRAMATIQ, DRAMATIQ_CONFIRMED, CELERY, CELERY_CONFIRMED)
WORKING_FAR: Final = (DRAMATIQ, CELERY)
SENDING_FAR: Final = (DRAMATIQ, DRAMATIQ_CONFIRMED, CELERY, CELERY_CONFIRMED, PIKA)
OVER_POSTGRES: Final = (PROCRASTINATE, PGQUEUER)
PROMISES: Final[Mapping[str, str]] = {
    "chappe": "at least once; sends are synced",
    **{
        peer.system: peer.promise
        for peer in (HUEY, HUEY_DEFAULTS, DJANGO, DRAMATIQ, DRAMATIQ_CONFIRMED, CELERY, CELERY_CONFIRMED, PIKA, PROCRASTINATE, PGQUEUER)
    },
    "limit": "none: it only moves messages",
    "send_text": "none: a loop over all clients",
    "raw": "none: asyncio alone",
}
"""All systems, in the order in which they are shown."""
