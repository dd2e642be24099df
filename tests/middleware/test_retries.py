"""The capability `retry`: what failed is handled again, later each time (row D6)."""

from typing import Any

import pytest

from chappe import Command, Context, Reject, Retry, RetryLater, Snooze
from chappe.middleware.retries import Retries, backoff

from .wrapped import handled


class Thrice(Command, queue="q", retry=Retry(3, delay=2.0, factor=3.0, most=10.0, jitter=0.0)):
    pass


def judged(error: BaseException, attempt: int = 1) -> BaseException:
    return Retries().judge(Thrice.__spec__.retry, Context("id", queue="q", attempt=attempt), error)


@pytest.mark.parametrize(("attempt", "pause"), [(1, 2.0), (2, 6.0)])
def test_a_failure_is_another_attempt_after_a_growing_pause(attempt: int, pause: float) -> None:
    failure = OSError("broken")
    verdict = judged(failure, attempt)
    assert isinstance(verdict, RetryLater)
    assert (verdict.after, verdict.reason, verdict.__cause__) == (pause, "OSError: broken", failure)


def test_the_last_failure_is_the_end_with_its_cause() -> None:
    failure = OSError("broken")
    verdict = judged(failure, 3)
    assert isinstance(verdict, Reject)
    assert (verdict.reason, verdict.__cause__) == ("attempts spent", failure)


async def test_an_attempt_beyond_the_last_is_not_begun() -> None:
    async def handler(message: Any, context: Context) -> None:
        raise AssertionError("must not run")

    with pytest.raises(Reject, match="attempts spent"):
        await handled(Retries(), Thrice(), handler, Context("id", queue="q", attempt=4))


def test_a_handler_may_say_when() -> None:
    assert getattr(judged(RetryLater("busy", after=77.0)), "after", None) == 77.0
    assert getattr(judged(RetryLater("busy")), "after", None) == 2.0


def test_asking_for_another_attempt_does_not_go_on_for_ever() -> None:
    verdict = judged(RetryLater("busy", after=1.0), 3)
    assert isinstance(verdict, Reject)
    assert verdict.reason == "attempts spent: busy"


@pytest.mark.parametrize("verdict", [Snooze(5.0), Reject("never")])
def test_other_verdicts_pass_unchanged(verdict: Exception) -> None:
    assert judged(verdict, 3) is verdict


async def test_a_message_handled_here_and_now_has_no_last_attempt() -> None:
    async def handler(message: Any, context: Context) -> int:
        return 42

    assert await handled(Retries(), Thrice(), handler, Context("id", queue="", attempt=4)) == 42


async def test_a_result_passes_unchanged() -> None:
    async def handler(message: Any, context: Context) -> int:
        return 42

    assert await handled(Retries(), Thrice(), handler) == 42


@pytest.mark.parametrize(
    ("attempt", "chance", "pause"),
    [(1, 0.0, 1.0), (2, 0.0, 3.0), (3, 0.0, 9.0), (20, 0.0, 100.0), (10**9, 0.0, 100.0), (1, 1.0, 0.8), (3, 0.5, 8.1)],
)
def test_the_pause_grows_to_a_limit_and_is_shortened_by_chance(attempt: int, chance: float, pause: float) -> None:
    assert backoff(Retry(delay=1.0, factor=3.0, most=100.0, jitter=0.2), attempt, chance) == pytest.approx(pause)
