"""How the queues were: once a minute for a week, once an hour and once a day for a quarter, in a file of this host."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import apsw
from msgspec import Struct
from msgspec.structs import astuple

from chappe.engines.contract.fleet import QueueStatus

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400
KEPT: Final = {MINUTE: 7 * DAY, HOUR: 90 * DAY, DAY: 90 * DAY}
ALL: Final = ""  # the name of all queues together: of each of its moments there is a row, of a quiet queue there is none
_WAIT: Final = 2000  # milliseconds for a lock of another gateway that reads
_COUNTS: Final = ("published", "done", "retried", "died")
_SCHEMA: Final = """
    create table if not exists summed (
        step integer not null, queue text not null, at integer not null, ready real not null, running real not null, delayed real not null,
        dead real not null, oldest real not null, published integer, done integer, retried integer, died integer,
        moments integer not null default 1, primary key (step, queue, at)
    ) strict, without rowid;
    create table if not exists counted (
        queue text primary key, at integer not null, published integer, done integer, retried integer, died integer
    ) strict, without rowid;
"""
_ADD: Final = """insert into summed values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1) on conflict do update set
    ready = ready + excluded.ready, running = running + excluded.running, delayed = delayed + excluded.delayed,
    dead = dead + excluded.dead, oldest = max(oldest, excluded.oldest), moments = moments + 1,
    published = coalesce(published + excluded.published, published, excluded.published),
    done = coalesce(done + excluded.done, done, excluded.done),
    retried = coalesce(retried + excluded.retried, retried, excluded.retried),
    died = coalesce(died + excluded.died, died, excluded.died)"""
_READ: Final = """select whole.at, ifnull(one.ready, 0) / whole.moments, ifnull(one.running, 0) / whole.moments,
    ifnull(one.delayed, 0) / whole.moments, ifnull(one.dead, 0) / whole.moments, ifnull(one.oldest, 0),
    iif(one.at is null, whole.published * 0, one.published), iif(one.at is null, whole.done * 0, one.done),
    iif(one.at is null, whole.retried * 0, one.retried), iif(one.at is null, whole.died * 0, one.died)
    from summed whole left join summed one on one.step = whole.step and one.queue = ? and one.at = whole.at
    where whole.step = ? and whole.queue = '' and whole.at >= ? and whole.at <= ? order by whole.at"""

Counts = tuple[int | None, int | None, int | None, int | None]


class Point(Struct, frozen=True):
    """A queue at a moment, or on average while a step lasted: `oldest` is the largest of it, what was published and done is all of it."""

    at: int
    ready: float = 0.0
    running: float = 0.0
    delayed: float = 0.0
    dead: float = 0.0
    oldest: float = 0.0
    published: int | None = None
    done: int | None = None
    retried: int | None = None
    died: int | None = None


def points_of(at: float, queues: Iterable[QueueStatus], before: Mapping[str, Counts]) -> dict[str, Point]:
    """Return the points of a minute, from what is there now and what each queue had counted before; without that nothing is known of it."""
    at, found = int(at // MINUTE) * MINUTE, dict[str, Point]()
    for queue in queues:
        if not queue.temporary:
            gauges = (queue.ready, queue.running, queue.delayed, queue.dead, queue.oldest or 0.0)
            found[queue.name] = Point(at, *gauges, *_since(before.get(queue.name), counts_of(queue)))
    return {ALL: _together(at, list(found.values())), **{name: point for name, point in found.items() if any(astuple(point)[1:])}}


def counts_of(queue: QueueStatus) -> Counts:
    """Return all that a queue has counted so far."""
    return queue.published, queue.done, queue.retried, queue.died


def _since(before: Counts | None, now: Counts) -> Iterator[int | None]:
    """Return what was counted meanwhile; a smaller number than before is one that began anew."""
    for old, new in zip(before or (None,) * 4, now, strict=True):
        yield None if old is None or new is None else new - old if new >= old else new


def _together(at: int, points: Sequence[Point]) -> Point:
    """Return one point for all queues."""
    ready, running, delayed, dead = (sum(getattr(point, name) for point in points) for name in ("ready", "running", "delayed", "dead"))
    counts = ([value for point in points if (value := getattr(point, name)) is not None] for name in _COUNTS)
    oldest = max((point.oldest for point in points), default=0.0)
    return Point(at, ready, running, delayed, dead, oldest, *(sum(known) if known else None for known in counts))


class History:
    """The file, in which each moment is added to its minute, hour and day: what was on average is the sum by the number of moments.

    Whoever writes holds its lock, and others may read. It is used by one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises `OSError` or `apsw.Error`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._database: Any = apsw.Connection(str(path))
        self._database.set_busy_timeout(_WAIT)
        self._database.pragma("synchronous", 1)  # the last minutes may be lost with the power
        self._database.execute(_SCHEMA)

    def lead(self) -> bool:
        """Tell whether this one of all who have opened the file is the one that writes: from then on until it is closed."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the file, and give back its lock."""
        self._database.close()
        os.close(self._handle)

    def counted(self, at: float) -> dict[str, Counts]:
        """Return all that queues had counted in the minute before, so that a gateway goes on where another one ended."""
        rows = self._database.execute("select queue, published, done, retried, died from counted where at >= ?", (int(at) - 2 * MINUTE,))
        return {queue: tuple(counts) for queue, *counts in rows}

    def record(self, at: int, points: Mapping[str, Point], counts: Mapping[str, Counts] = MappingProxyType({})) -> None:
        """Keep the points of a minute and all that was counted, and forget what is old."""
        with self._database:
            for step, kept in KEPT.items():
                rows = [(step, queue, point.at // step * step, *astuple(point)[1:]) for queue, point in points.items()]
                self._database.executemany(_ADD, rows)
                if at % HOUR == 0:  # it looks at every row
                    self._database.execute("delete from summed where step = ? and at < ?", (step, at - kept))
            self._database.execute("delete from counted")
            rows = [(queue, at, *all_) for queue, all_ in counts.items()]
            self._database.executemany("insert into counted values (?, ?, ?, ?, ?, ?)", rows)

    def read(self, queue: str, step: int, begin: float, end: float) -> list[Point]:
        """Return the points of a queue within a time, the step that goes on included: one for each step in which any queue had one."""
        return [Point(*row) for row in self._database.execute(_READ, (queue, step, int(begin // step) * step, int(end)))]
