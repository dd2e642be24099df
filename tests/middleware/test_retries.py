"""The capability `retry`: what failed is handled again, later each time."""

from typing import Any

import pytest

from chappe import Command, Context, Reject, Retry, RetryLater, Snooze
from chappe.middleware.retries import Retries, backoff

from .wrapped import handled


class Thrice(Command, queue="q", retry=Retry(3, delay=2.0, factor=3.0, most=10.0, jitter=0.0)):
    pass


def raising(error: Exception) -> Any:
    async def handler(message: Any, context: Context) -> None:
        raise error

    return handler


@pytest.mark.parametrize(("attempt", "pause"), [(1, 2.0), (2, 6.0)])
async def test_a_failure_is_another_attempt_after_a_growing_pause(attempt: int, pause: float) -> None:
    failure = OSError("broken")
    with pytest.raises(RetryLater, match="broken") as caught:
        await handled(Retries(), Thrice(), raising(failure), Context("id", queue="q", attempt=attempt))
    assert caught.value.after == pause
    assert caught.value.__cause__ is failure


async def test_the_last_failure_is_the_end_with_its_cause() -> None:
    failure = OSError("broken")
    with pytest.raises(Reject, match="attempts spent") as caught:
        await handled(Retries(), Thrice(), raising(failure), Context("id", queue="q", attempt=3))
    assert caught.value.__cause__ is failure


async def test_an_attempt_beyond_the_last_is_not_begun() -> None:
    async def handler(message: Any, context: Context) -> None:
        raise AssertionError("must not run")

    with pytest.raises(Reject, match="attempts spent"):
        await handled(Retries(), Thrice(), handler, Context("id", queue="q", attempt=4))


async def test_a_handler_may_say_when() -> None:
    with pytest.raises(RetryLater) as caught:
        await handled(Retries(), Thrice(), raising(RetryLater("busy", after=77.0)), Context("id", queue="q"))
    assert caught.value.after == 77.0
    with pytest.raises(RetryLater) as caught:
        await handled(Retries(), Thrice(), raising(RetryLater("busy")), Context("id", queue="q"))
    assert caught.value.after == 2.0


async def test_asking_for_another_attempt_does_not_go_on_for_ever() -> None:
    with pytest.raises(Reject, match="attempts spent: busy"):
        await handled(Retries(), Thrice(), raising(RetryLater("busy", after=1.0)), Context("id", queue="q", attempt=3))


@pytest.mark.parametrize("verdict", [Snooze(5.0), Reject("never")])
async def test_other_verdicts_pass_unchanged(verdict: Exception) -> None:
    with pytest.raises(type(verdict)) as caught:
        await handled(Retries(), Thrice(), raising(verdict), Context("id", queue="q", attempt=3))
    assert caught.value is verdict


async def test_a_message_handled_here_and_now_fails_with_its_own_error() -> None:
    failure = OSError("broken")
    with pytest.raises(OSError, match="broken") as caught:
        await handled(Retries(), Thrice(), raising(failure), Context("id", queue=""))
    assert caught.value is failure


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
