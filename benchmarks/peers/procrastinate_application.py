"""Procrastinate over PostgreSQL, in a database of its own."""

from __future__ import annotations

import os
from typing import Any

import procrastinate
import psycopg

from benchmarks import tally
from benchmarks.payload import FIELDS

_URL = os.environ["PGDSN"]
app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=_URL, max_size=20), import_paths=["benchmarks.peers.procrastinate_application"]
)
_opened: list[bool] = []


@app.task(queue="bench", name="noop")
async def noop(**_: Any) -> None:
    tally.note()


@app.task(queue="bench", name="stamp")
async def stamp(at: float, **_: Any) -> None:
    tally.since(at)


def _open() -> None:
    """Open what sends without an event loop; the first makes the schema."""
    if not _opened:
        with psycopg.connect(_URL, autocommit=True) as connection:
            connection.execute("select pg_advisory_lock(1)")
            row = connection.execute("select to_regclass('procrastinate_jobs')").fetchone()
            app.open()
            if row is None or row[0] is None:
                app.schema_manager.apply_schema()
        _opened.append(True)


def send() -> None:
    """Send what is drained."""
    _open()
    noop.defer(fields=FIELDS)


def send_stamped(at: float) -> None:
    """Send what tells how long it took."""
    _open()
    stamp.defer(fields=FIELDS, at=at)


def waiting() -> int:
    """Count what nobody took yet."""
    with psycopg.connect(_URL) as connection:
        row = connection.execute("select count(*) from procrastinate_jobs where status = 'todo'").fetchone()
    return 0 if row is None else int(row[0])


def forget() -> None:
    """Delete what nobody took."""
    with psycopg.connect(_URL) as connection:
        connection.execute("truncate procrastinate_jobs cascade")


def close() -> None:
    """Leave nothing half sent."""
    if _opened:
        app.close()
