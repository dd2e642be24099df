"""huey over SQLite: what people take who want no server, as Chappe's users do.

It takes a task off the queue before it runs it, so a task is run at most once. Its commits are synced as Chappe's are.
"""

from __future__ import annotations

from typing import Any

from huey import SqliteHuey

from benchmarks import tally
from benchmarks.payload import FIELDS

huey = SqliteHuey("bench", filename="huey.db", results=False)


@huey.task()
def noop(_: dict[str, Any]) -> None:
    tally.note()


@huey.task()
def stamp(_: dict[str, Any], at: float) -> None:
    tally.since(at)


def send() -> None:
    """Send what is drained."""
    noop(FIELDS)


def send_stamped(at: float) -> None:
    """Send what tells how long it took."""
    stamp(FIELDS, at)


def waiting() -> int:
    """Count what nobody took yet."""
    return huey.pending_count()


def forget() -> None:
    """Delete what nobody took."""
    huey.flush()


def close() -> None:
    """Leave nothing half sent."""
    huey.storage.close()
