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

from chappe.engines.contract.fleet import QueueStatus

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400
KEPT: Final = {MINUTE: 7 * DAY, HOUR: 90 * DAY, DAY: 90 * DAY}
ALL: Final = ""  # the name of all queues together: of each of its moments there is a point, of a quiet queue there is none
_COARSER: Final = {MINUTE: HOUR, HOUR: DAY}
_FINER: Final = {coarse: fine for fine, coarse in _COARSER.items()}
_WAIT: Final = 2000  # milliseconds for a lock of another gateway that reads
_SCHEMA: Final = """
    create table if not exists point (
        step integer not null, queue text not null, at integer not null, ready real not null, running real not null, delayed real not null,
        dead real not null, oldest real not null, published integer, done integer, retried integer, died integer,
        primary key (step, queue, at)
    ) strict, without rowid;
    create table if not exists counted (
        queue text primary key, at integer not null, published integer, done integer, retried integer, died integer
    ) strict, without rowid;
    pragma user_version = 1;
"""
_READ: Final = """select at, ready, running, delayed, dead, oldest, published, done, retried, died from point
    where step = ? and queue = ? and at >= ? and at < ? order by at"""
_WRITE: Final = "insert or replace into point values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_QUEUES: Final = "select distinct queue from point where step = ? and at >= ? and at < ?"

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
    return {ALL: together(at, list(found.values())), **{name: point for name, point in found.items() if _tells(point)}}


def counts_of(queue: QueueStatus) -> Counts:
    """Return all that a queue has counted so far."""
    return queue.published, queue.done, queue.retried, queue.died


def _since(before: Counts | None, now: Counts) -> Iterator[int | None]:
    """Return what was counted meanwhile; a smaller number than before is one that began anew."""
    for old, new in zip(before or (None,) * 4, now, strict=True):
        yield None if old is None or new is None else new - old if new >= old else new


def _tells(point: Point) -> bool:
    return any(getattr(point, name) for name in Point.__struct_fields__ if name != "at")


def _quiet(point: Point) -> Point:
    """Return the point of a queue in which nothing happened, at the moment of another."""
    return Point(
        point.at, 0, 0, 0, 0, 0, *(None if count is None else 0 for count in (point.published, point.done, point.retried, point.died))
    )


def together(at: int, points: Sequence[Point]) -> Point:
    """Return one point for several of the same moment."""
    ready, running, delayed, dead = (sum(getattr(point, name) for point in points) for name in ("ready", "running", "delayed", "dead"))
    return Point(at, ready, running, delayed, dead, max((point.oldest for point in points), default=0.0), *_summed(points))


def folded(points: Sequence[Point], step: int, moments: Mapping[int, int]) -> list[Point]:
    """Return points of a longer step; `moments` says of how many points each is the average, for quiet ones are left out."""
    by_step: dict[int, list[Point]] = {}
    for point in points:
        by_step.setdefault(point.at // step * step, []).append(point)
    found: list[Point] = []
    for at, some in by_step.items():
        whole, count = together(at, some), max(moments.get(at, 0), len(some))
        means = (whole.ready / count, whole.running / count, whole.delayed / count, whole.dead / count)
        found.append(Point(at, *means, whole.oldest, whole.published, whole.done, whole.retried, whole.died))
    return found


def _summed(points: Sequence[Point]) -> Iterator[int | None]:
    for name in ("published", "done", "retried", "died"):
        known = [value for point in points if (value := getattr(point, name)) is not None]
        yield sum(known) if known else None


class History:
    """The file; whoever writes holds its lock, and others may read. It is used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises `OSError` or `apsw.Error`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._database: Any = apsw.Connection(str(path))
        self._database.set_busy_timeout(_WAIT)
        self._database.pragma("synchronous", 1)  # the last minutes may be lost with the power
        if not self._database.pragma("user_version"):
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

    def record(self, at: float, points: Mapping[str, Point], counts: Mapping[str, Counts] = MappingProxyType({})) -> None:
        """Keep the points of a minute and all that was counted, fold what has ended into longer steps, and forget what is old."""
        with self._database:
            self._write(MINUTE, points)
            self._database.execute("delete from counted")
            self._database.executemany(
                "insert into counted values (?, ?, ?, ?, ?, ?)", [(queue, int(at), *all_) for queue, all_ in counts.items()]
            )
            for fine, coarse in _COARSER.items():
                self._fold(fine, coarse, int(at // coarse) * coarse)
            for step, kept in KEPT.items():
                self._database.execute("delete from point where step = ? and at < ?", (step, int(at) - kept))

    def _fold(self, fine: int, coarse: int, end: int) -> None:
        """Write the coarse points before the last of which nothing more can come."""
        begin = self._last(coarse)
        if (
            self._database.execute("select 1 from point where step = ? and at >= ? and at < ? limit 1", (fine, begin, end)).fetchone()
            is None
        ):
            return
        moments = self._moments(fine, coarse, begin, end)
        for (queue,) in self._database.execute(_QUEUES, (fine, begin, end)).fetchall():
            for point in folded(self._stored(fine, queue, begin, end), coarse, moments):
                self._write(coarse, {queue: point})

    def read(self, queue: str, step: int, begin: float, end: float) -> list[Point]:
        """Return the points of a queue within a time, the step that goes on included: one for each step in which any queue had one."""
        first, last = int(begin // step) * step, int(end) + 1
        found = {point.at: _quiet(point) for point in self._stored(step, ALL, first, last)}
        found |= {point.at: point for point in self._stored(step, queue, first, last)}
        if step in _FINER:
            finer = self.read(queue, _FINER[step], max(first, self._last(step)), end)
            found |= {point.at: point for point in folded(finer, step, {})}
        return [found[at] for at in sorted(found)]

    def _last(self, step: int) -> int:
        """Return behind which moment nothing is folded yet."""
        ((last,),) = self._database.execute("select max(at) from point where step = ? and queue = ?", (step, ALL)).fetchall()
        return 0 if last is None else last + step

    def _moments(self, fine: int, coarse: int, begin: int, end: int) -> dict[int, int]:
        rows = self._database.execute(
            "select at / ? * ?, count(*) from point where step = ? and queue = ? and at >= ? and at < ? group by 1",
            (coarse, coarse, fine, ALL, begin, end),
        )
        return dict(rows.fetchall())

    def _stored(self, step: int, queue: str, begin: int, end: int) -> list[Point]:
        return [Point(*row) for row in self._database.execute(_READ, (step, queue, begin, end))]

    def _write(self, step: int, points: Mapping[str, Point]) -> None:
        rows = [
            (step, queue, point.at, *(getattr(point, name) for name in Point.__struct_fields__ if name != "at"))
            for queue, point in points.items()
        ]
        self._database.executemany(_WRITE, rows)
