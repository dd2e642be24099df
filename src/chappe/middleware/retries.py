"""What failed is handled again, later each time: the capability `retry`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from chappe.bus.bus import Handle, Middleware
from chappe.bus.context import Context
from chappe.bus.loop import interruption
from chappe.errors import Reject, RetryLater, Verdict
from chappe.failures import summarize, verdict_of
from chappe.messages.capabilities import MessageSpec, Retry


class Retries(Middleware):
    """Turns an exception into another attempt, until the attempts are spent."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        retry = spec.retry

        async def retried(message: Any, context: Context) -> Any:
            if not context.queue:  # inline: the caller sees the error itself
                return await call_next(message, context)
            if context.attempt > retry.attempts:  # a worker died in the last one
                raise Reject("attempts spent")
            try:
                return await call_next(message, context)
            except BaseException as error:  # whatever a handler raises is a failed attempt, also sys.exit() of a script
                verdict = self.judge(retry, context, error)
                if verdict is error:
                    raise
                raise verdict from verdict.__cause__

        return retried

    def judge(self, retry: Retry, context: Context, error: BaseException) -> BaseException:
        """Return the verdict that an error amounts to, with the error as its cause; a cancellation by the worker stays what it is."""
        failed = verdict_of(error)
        after: float | None = None
        if isinstance(failed, RetryLater):
            after, cause = failed.after, failed.__cause__
        elif isinstance(failed, Verdict) or _is_end_of_worker(failed):
            return failed
        else:
            cause = failed = _cause(failed)
        verdict = again(retry, context.attempt, self._chance, failed, after)
        verdict.__cause__ = cause
        return verdict


def _is_end_of_worker(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError) and isinstance(interruption(), asyncio.CancelledError)


def _cause(error: BaseException) -> BaseException:
    """Return what failed: for a cancellation by the worker, why it cancelled."""
    return (interruption() if isinstance(error, asyncio.CancelledError) else None) or error


def again(retry: Retry, attempt: int, chance: Callable[[], float], error: BaseException, after: float | None) -> Verdict:
    """Decide between another attempt and the end."""
    if attempt >= retry.attempts:
        return Reject(f"attempts spent: {error}" if isinstance(error, RetryLater) else "attempts spent")
    return RetryLater(summarize(error), after=backoff(retry, attempt, chance()) if after is None else after)


def backoff(retry: Retry, attempt: int, chance: float) -> float:
    """Return the pause in seconds after an attempt, shortened by a part of the jitter (chance within 0..1)."""
    pause = min(retry.most, retry.delay * retry.factor ** min(attempt - 1, 64))
    return pause * (1 - retry.jitter * chance)
