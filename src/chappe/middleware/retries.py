"""What failed is handled again, later each time: the capability `retry`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from chappe.bus.bus import Handle, Middleware
from chappe.bus.context import Context
from chappe.bus.loop import interruption
from chappe.errors import Reject, RetryLater, Verdict
from chappe.failures import summarize, verdict_of
from chappe.messages.capabilities import MessageSpec, Retry


class Retries(Middleware):
    """Has what failed be handled again, until the attempts are spent: `judge` is what a worker asks, whoever raised the error."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        attempts = spec.retry.attempts

        def begun(message: Any, context: Context) -> Awaitable[Any]:
            if context.queue and context.attempt > attempts:  # a worker died in the last one
                raise Reject("attempts spent")
            return call_next(message, context)

        return begun

    def judge(self, retry: Retry, context: Context, error: BaseException) -> BaseException:
        """Return the verdict that an error amounts to, with the error as its cause; a cancellation by the worker stays what it is."""
        failed, asked, after = verdict_of(error), "", None
        if isinstance(failed, RetryLater):
            asked, after, cause = f": {failed}", failed.after, failed.__cause__
        elif isinstance(failed, Verdict):
            return failed
        else:
            why = interruption() if isinstance(failed, asyncio.CancelledError) else None
            if isinstance(why, asyncio.CancelledError):
                return failed
            cause = failed = why or failed
        if context.attempt >= retry.attempts:
            verdict: Verdict = Reject(f"attempts spent{asked}")
        else:
            verdict = RetryLater(summarize(failed), after=backoff(retry, context.attempt, self._chance()) if after is None else after)
        verdict.__cause__ = cause
        return verdict


def backoff(retry: Retry, attempt: int, chance: float) -> float:
    """Return the pause in seconds after an attempt, shortened by a part of the jitter (chance within 0..1)."""
    pause = min(retry.most, retry.delay * retry.factor ** min(attempt - 1, 64))
    return pause * (1 - retry.jitter * chance)
