"""django-tasks with its own database backend over SQLite: what Django's projects have without a broker.

A worker that dies leaves its task as running for ever.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command
from django_tasks import task

from benchmarks import tally
from benchmarks.payload import FIELDS

django.setup()
from django_tasks_db.models import DBTaskResult  # noqa: E402 - models can be imported when Django is set up

with Path("django.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    call_command("migrate", verbosity=0)


@task()
def noop(_: dict[str, Any]) -> None:
    tally.note()


@task()
def stamp(_: dict[str, Any], at: float) -> None:
    tally.since(at)


def send() -> None:
    """Send what is drained."""
    noop.enqueue(FIELDS)


def send_stamped(at: float) -> None:
    """Send what tells how long it took."""
    stamp.enqueue(FIELDS, at)


def waiting() -> int:
    """Count what nobody took yet."""
    return DBTaskResult.objects.ready().count()


def forget() -> None:
    """Delete what nobody took."""
    DBTaskResult.objects.all().delete()


def close() -> None:
    """Leave nothing half sent."""
    django.db.connections.close_all()
