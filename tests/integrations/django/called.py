"""Tasks for the tests of the backend."""

import os
import time
from typing import Any

from chappe.integrations.django.backend import TaskContext

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task

ran: list[Any] = []


@task
def noop(*args: Any, **kwargs: Any) -> None:
    ran.append((args, kwargs))


@task
async def noop_async(*args: Any, **kwargs: Any) -> None:
    ran.append((args, kwargs))


@task
def meaning_of_life() -> int:
    return 42


@task
def failing(message: str) -> None:
    raise ValueError(message)


@task(backend="again")
def failing_again(until: int) -> str:
    ran.append(until)
    if len(ran) < until:
        raise ValueError(f"attempt {len(ran)}")
    return "at last"


@task
def exits() -> None:
    raise SystemExit("this task ends the process")


@task
def complex_exception() -> None:
    raise ValueError(ValueError("inside"))


@task
def complex_result() -> Any:
    return open  # noqa: SIM115 - what JSON cannot hold


@task(takes_context=True)
def identity(context: TaskContext) -> str:
    return context.task_result.id


@task(takes_context=True)
def attempt_of(context: TaskContext, attempt: int) -> None:
    assert isinstance(context, TaskContext)
    assert context.attempt == attempt


@task(queue_name="queue-1")
def process() -> int:
    return os.getpid()


def no_task() -> None:
    time.sleep(0)
