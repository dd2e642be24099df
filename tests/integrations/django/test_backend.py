"""The backend of `django.tasks`: what the public tests of backends ask of one, and what is ours.

Each test names the public one that it stands for (of django-tasks' database and immediate backends, and of Django's own). Not applying:
those of `db_worker` and `prune_db_task_results` (commands of that backend), of row locks and UUIDs of its tables, and
`test_cannot_get_result`, `test_cannot_refresh_result`, `test_cannot_pass_run_after` (this backend can).
"""

import datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import SuspiciousOperation
from django.db import transaction
from django.utils import timezone

from chappe.integrations.django.backend import ChappeBackend, TaskResultDoesNotExist, _commands, task_backends
from chappe.integrations.django.models import Call, Outbox
from chappe.testing import Trial

from . import called

default = task_backends["default"]


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    called.ran.clear()


def finished(t: Trial, result: Any) -> Any:
    t.drain()
    result.refresh()
    return result


def test_using_correct_backend() -> None:
    assert isinstance(default, ChappeBackend)
    assert (default.alias, default.options, list(default.check())) == ("default", {}, [])


@pytest.mark.parametrize("task", [called.noop, called.noop_async])
def test_enqueue_task(t: Trial, task: Any) -> None:
    result = task.enqueue(1, two=3)
    assert (result.status, result.is_finished, result.started_at, result.finished_at) == ("READY", False, None, None)
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value
    assert (result.task, result.args, result.kwargs, result.attempts) == (task, [1], {"two": 3}, 0)
    assert called.ran == []


def test_enqueue_task_async(t: Trial) -> None:
    result = async_to_sync(called.noop_async.aenqueue)()
    assert (result.status, result.args, result.kwargs) == ("READY", [], {})
    assert finished(t, result).status == "SUCCESSFUL"


@pytest.mark.parametrize("task", [called.noop, called.noop_async])
def test_run_enqueued_task(t: Trial, task: Any) -> None:
    result = task.enqueue(1, two=[3])
    assert t.drain() == 1
    assert result.status == "READY"
    result.refresh()
    assert (result.status, result.attempts, result.return_value) == ("SUCCESSFUL", 1, None)
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert called.ran == [((1,), {"two": [3]})]


def test_get_result(t: Trial) -> None:
    result = called.noop.enqueue(1)
    assert default.get_result(result.id) == result
    assert async_to_sync(default.aget_result)(result.id) == result


def test_refresh_result_async(t: Trial) -> None:
    result = called.meaning_of_life.enqueue()
    t.drain()
    async_to_sync(result.arefresh)()
    assert (result.status, result.return_value) == ("SUCCESSFUL", 42)


def test_get_result_of_task_from_different_task(t: Trial) -> None:
    result = called.noop.enqueue()
    with pytest.raises(Exception, match="does not match"):
        called.meaning_of_life.get_result(result.id)


@pytest.mark.parametrize("missing", ["123", "", "0190a0b0-0000-7000-8000-000000000000"])
def test_get_missing_result(t: Trial, missing: str) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        default.get_result(missing)
    with pytest.raises(TaskResultDoesNotExist):
        async_to_sync(default.aget_result)(missing)


@pytest.mark.parametrize(("task", "kind"), [(called.failing, ValueError), (called.exits, SystemExit)])
def test_catches_exception(t: Trial, task: Any, kind: type[BaseException]) -> None:
    result = finished(t, task.enqueue(*(["why"] if task is called.failing else [])))
    assert (result.status, result.is_finished) == ("FAILED", True)
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    (error,) = result.errors
    assert error.exception_class is kind
    assert error.traceback.endswith("ValueError: why\n" if kind is ValueError else "SystemExit: this task ends the process\n")
    assert result.started_at <= result.last_attempted_at <= result.finished_at


def test_complex_exception(t: Trial) -> None:
    result = finished(t, called.complex_exception.enqueue())
    assert result.errors[0].exception_class is ValueError
    assert 'ValueError(ValueError("inside"))' in result.errors[0].traceback


def test_complex_return_value(t: Trial) -> None:
    result = finished(t, called.complex_result.enqueue())
    assert (result.status, result.errors[0].exception_class) == ("FAILED", TypeError)


def test_batch_processes_all_tasks(t: Trial) -> None:
    for _ in range(3):
        called.noop.enqueue()
    called.failing.enqueue("why")
    assert t.drain() == 4
    assert sorted(Call.objects.values_list("status", flat=True)) == ["FAILED", "SUCCESSFUL", "SUCCESSFUL", "SUCCESSFUL"]
    assert len(t.dead) == 1


def test_queues_are_apart(t: Trial) -> None:
    called.noop.using(queue_name="queue-1").enqueue()
    called.noop.enqueue()
    assert (t.depth("tasks.queue-1"), t.depth("tasks.default")) == ((1, 0), (1, 0))


def test_run_after(t: Trial) -> None:
    result = called.noop.using(run_after=timezone.now() + datetime.timedelta(hours=10)).enqueue()
    assert t.drain() == 0
    t.advance(9 * 3600)
    assert t.depth("tasks.default") == (0, 1)
    t.advance(3700)
    assert finished(t, result).status == "SUCCESSFUL"
    late = called.noop.using(run_after=timezone.now() - datetime.timedelta(hours=1)).enqueue()
    assert finished(t, late).status == "SUCCESSFUL"


def test_run_after_priority(t: Trial) -> None:
    for number, priority in enumerate((2, 10, -2, 0)):
        called.noop.using(priority=priority).enqueue(number)
    t.drain()
    assert [args for args, _ in called.ran] == [(1,), (0,), (3,), (2,)]


def test_takes_context(t: Trial) -> None:
    result = finished(t, called.identity.enqueue())
    assert result.return_value == result.id
    assert finished(t, called.attempt_of.enqueue(1)).status == "SUCCESSFUL"


def test_validate_on_enqueue(t: Trial) -> None:
    with pytest.raises(Exception, match="Queue 'unknown' is not valid for backend"):
        called.noop.using(queue_name="unknown").enqueue()
    with pytest.raises(Exception, match="priority must be a whole number"):
        called.noop.using(priority=101).enqueue()
    assert not Call.objects.exists()


def test_enqueue_logs(t: Trial, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        result = called.noop.enqueue()
        t.drain()
        failed = called.failing.enqueue("why")
        t.drain()
    lines = [record.getMessage() for record in caplog.records if record.name in ("django_tasks", "django.tasks")]
    for one, state in ((result, "SUCCESSFUL"), (failed, "FAILED")):
        own = [line for line in lines if one.id in line]
        assert ("enqueued" in own[0], "state=RUNNING" in own[1], f"state={state}" in own[2]) == (True, True, True)


def test_wait_until_transaction_commit(t: Trial) -> None:
    with transaction.atomic():
        result = called.noop.enqueue()
        assert t.drain() == 0
    assert finished(t, result).status == "SUCCESSFUL"


def test_rolled_back_with_its_transaction(t: Trial) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        called.noop.enqueue()
        1 / 0  # noqa: B018
    assert (t.drain(), Call.objects.count(), Outbox.objects.count()) == (0, 0, 0)


@pytest.mark.parametrize("path", ["subprocess.check_output", "tests.integrations.django.called.no_task"])
def test_invalid_task_path(t: Trial, path: str) -> None:
    result = called.noop.enqueue()
    Call.objects.filter(pk=result.id).update(task=path)
    with pytest.raises(SuspiciousOperation, match="does not name a task"):
        default.get_result(result.id)
    t.drain()
    assert [letter.reason for letter in t.dead] == ["attempts spent"]


def test_missing_task_path(t: Trial) -> None:
    result = called.noop.enqueue()
    Call.objects.filter(pk=result.id).update(task="missing.function")
    t.drain()
    with pytest.raises(ImportError):
        default.get_result(result.id)
    assert len(t.dead) == 1


def test_arguments_that_json_cannot_hold_are_refused(t: Trial) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        called.noop.enqueue(object())
    assert not Call.objects.exists()


# --- ours


def test_a_task_with_attempts_is_tried_again_and_tells_each_error(t: Trial) -> None:
    result = called.failing_again.enqueue(3)
    t.drain()
    result.refresh()
    assert (result.status, result.finished_at, len(result.errors)) == ("READY", None, 1)
    t.drain(to_the_end=True, slots=0)
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", "at last", 3)
    assert ["attempt 1" in result.errors[0].traceback, "attempt 2" in result.errors[1].traceback] == [True, True]


def test_a_call_that_is_done_is_not_run_again_when_its_message_comes_twice(t: Trial) -> None:
    called.noop.enqueue()
    t.drain()
    (command,) = t.sent(_commands["default"])
    t.send(command)
    t.drain()
    assert len(called.ran) == 1


def test_a_dead_letter_of_a_task_runs_again_when_it_is_retried(t: Trial) -> None:
    result = called.attempt_of.enqueue(2)
    assert finished(t, result).status == "FAILED"
    (letter,) = t.dead
    t._run(_retry(t, letter.number))
    assert finished(t, result).status == "SUCCESSFUL"


async def _retry(t: Trial, number: int) -> None:
    await (await t.app.connection()).store.retry_letters([number])
