"""A backend for `django.tasks`: each call of a task is a row of the project's database and a message of its application.

::

    TASKS = {"default": {"BACKEND": "chappe.integrations.django.backend.ChappeBackend", "QUEUES": ["default", "mails"]}}

A task of the queue `mails` waits in Chappe's queue `tasks.mails`. `OPTIONS = {"attempts": 3}` has a task that fails tried again; a task
is tried once if nothing is said, as other backends do.
"""

from __future__ import annotations

import datetime
import os
import socket
import traceback
import types
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from django.core.exceptions import SuspiciousOperation
from django.db import transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from chappe.app import App
from chappe.bus.context import Context
from chappe.bus.draft import new_id
from chappe.bus.handler import Interrupted
from chappe.errors import Reject
from chappe.integrations.django.models import Call
from chappe.integrations.django.sending import send_on_commit
from chappe.messages.capabilities import Retry
from chappe.messages.message import Command

if TYPE_CHECKING:
    from django_tasks import TaskContext, TaskResult, TaskResultStatus, task_backends
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.base import Task, TaskError
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued, task_finished, task_started
    from django_tasks.utils import normalize_json
else:
    try:
        from django.tasks import TaskContext, TaskResult, TaskResultStatus, task_backends
        from django.tasks.backends.base import BaseTaskBackend
        from django.tasks.base import Task, TaskError, normalize_json
        from django.tasks.exceptions import TaskResultDoesNotExist
        from django.tasks.signals import task_enqueued, task_finished, task_started
    except ImportError:
        from django_tasks import TaskContext, TaskResult, TaskResultStatus, task_backends
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import Task, TaskError, normalize_json
        from django_tasks.exceptions import TaskResultDoesNotExist
        from django_tasks.signals import task_enqueued, task_finished, task_started

READY: Final = "READY"
RUNNING: Final = "RUNNING"
SUCCESSFUL: Final = "SUCCESSFUL"
FAILED: Final = "FAILED"
_COPIED: Final = ("enqueued_at", "started_at", "last_attempted_at", "finished_at", "args", "kwargs", "backend")


class ChappeBackend(BaseTaskBackend):
    """Has tasks run by the workers of the project's application; results are kept in its database for as long as the project wants."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def enqueue(self, task: Task[Any, Any], args: Any, kwargs: Any) -> TaskResult[Any]:
        """Write the call down, and have it run when the running transaction is committed."""
        cast("Any", self).validate_task(task)
        call = Call(
            id=new_id(),
            task=task.module_path,
            backend=self.alias,
            queue_name=task.queue_name,
            priority=task.priority,
            run_after=task.run_after,
            args=normalize_json(list(args)),
            kwargs=normalize_json(kwargs),
            status=READY,
            enqueued_at=timezone.now(),
        )
        delay = None if task.run_after is None else max(0.0, (_aware(task.run_after) - timezone.now()).total_seconds())
        kind: Any = _commands[self.alias]
        known = kind.__annotations__["queue"].__args__
        queue = task.queue_name if task.queue_name in known else known[0]
        with transaction.atomic():  # also where there is no other: the call goes on when the broker is away
            call.save(force_insert=True)
            send_on_commit(kind(call=call.id, queue=queue), delay=delay, priority=task.priority)
        result = result_of(call, task)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult[Any]:
        """Return what became of a call; raises `TaskResultDoesNotExist`."""
        call = Call.objects.filter(pk=result_id).first()
        if call is None:
            raise TaskResultDoesNotExist(result_id)
        return result_of(call, task_of(call))


_commands: dict[str, type[Command]] = {}


def register(app: App) -> None:
    """Have an application run the tasks of all backends of this kind that the setting TASKS names."""
    for alias in task_backends.settings:
        backend = task_backends[alias]
        if isinstance(backend, ChappeBackend) and alias not in _commands:
            kind = _commands[alias] = _command(alias, backend)
            app.handles(kind)(_runs(kind))


def _command(alias: str, backend: ChappeBackend) -> type[Command]:
    """Return the command of a backend: which queues there are is known by its type."""
    queues: set[str] = cast("Any", backend).queues
    hints = {"call": str, "queue": Literal[tuple(sorted(queues)) or ("default",)]}
    keywords: dict[str, Any] = {
        "name": f"django.task.{alias.lower()}",
        "queue": "tasks.{queue}",
        "retry": Retry(int(cast("dict[str, Any]", backend.options).get("attempts", 1))),
    }
    body = {"__annotations__": hints, "__module__": __name__, "__doc__": "Run one call of a task."}
    return cast("type[Command]", types.new_class("RunTask", (Command,), keywords, lambda space: space.update(body)))


def _runs(kind: type[Command]) -> Any:
    def run_task(command: Any, context: Context) -> None:
        call = Call.objects.filter(pk=command.call).first()
        if call is None:
            raise Reject(f"the call {command.call} is not in the database any more")
        if call.status != SUCCESSFUL:  # it is, where a worker died after its end
            run(call, context.attempt >= kind.__spec__.retry.attempts)

    return run_task


def run(call: Call, is_last: bool) -> None:
    """Run a call and write down what became of it; what the task raises is raised again."""
    task = task_of(call)
    now = timezone.now()
    call.status, call.last_attempted_at, call.started_at = RUNNING, now, call.started_at or now
    call.worker_ids.append(f"{socket.gethostname()}:{os.getpid()}"[:64])
    call.save()
    result = result_of(call, task)
    task_started.send(ChappeBackend, task_result=result)
    try:
        returned = task.call(*([TaskContext(task_result=result)] if task.takes_context else []), *call.args, **call.kwargs)
        call.return_value = normalize_json(returned)
    except BaseException as error:  # whatever a task raises is its failure, also sys.exit() of a script
        is_cut_off = isinstance(error, Interrupted)  # its worker ends: another goes on
        call.status = FAILED if is_last and not is_cut_off else READY
        if not is_cut_off:
            path = f"{type(error).__module__}.{type(error).__qualname__}"
            call.errors.append({"exception_class_path": path, "traceback": "".join(traceback.format_exception(error))})
        _finish(call, task)
        raise
    call.status = SUCCESSFUL
    _finish(call, task)


def _finish(call: Call, task: Task[Any, Any]) -> None:
    if call.status != READY:
        call.finished_at = timezone.now()
    call.save()
    if call.finished_at is not None:
        task_finished.send(ChappeBackend, task_result=result_of(call, task))


def task_of(call: Call) -> Task[Any, Any]:
    """Return the task of a call; raises `SuspiciousOperation` for what is none, and `ImportError`."""
    found = import_string(call.task)
    if not isinstance(found, Task):
        raise SuspiciousOperation(f"Call {call.id} does not name a task ({call.task})")
    task = cast("Task[Any, Any]", found)
    return task.using(priority=call.priority, queue_name=call.queue_name, run_after=call.run_after, backend=call.backend)


def result_of(call: Call, task: Task[Any, Any]) -> TaskResult[Any]:
    """Return a call as `django.tasks` shows it."""
    result: TaskResult[Any] = TaskResult(
        task=task,
        id=call.id,
        status=TaskResultStatus(call.status),
        errors=[TaskError(**error) for error in call.errors],
        worker_ids=list(call.worker_ids),
        **{name: getattr(call, name) for name in _COPIED},
    )
    object.__setattr__(result, "_return_value", call.return_value)
    return result


def _aware(moment: datetime.datetime) -> datetime.datetime:
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
