"""What failed is handled again, later each time: the capability `retry`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from chappe.bus.bus import Handle, Middleware
from chappe.bus.context import Context
from chappe.errors import Reject, RetryLater, Verdict
from chappe.messages.capabilities import MessageSpec, Retry


class Retries(Middleware):
    """Turns an exception into another attempt, until the attempts are spent."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        retry, chance = spec.retry, self._chance

        async def retried(message: Any, context: Context) -> Any:
            if not context.queue:  # inline: the caller sees the error itself
                return await call_next(message, context)
            if context.attempt > retry.attempts:  # a worker died in the last one
                raise Reject("attempts spent")
            try:
                return await call_next(message, context)
            except RetryLater as asked:
                raise again(retry, context.attempt, chance, asked, asked.after) from asked.__cause__
            except Verdict:
                raise
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # the worker stops
                cancelled = RuntimeError("a task or future that the handler waited for was cancelled")
                raise again(retry, context.attempt, chance, cancelled, None) from error
            except GeneratorExit:
                raise
            except BaseException as error:  # whatever a handler raises is a failed attempt, also sys.exit() of a script
                raise again(retry, context.attempt, chance, error, None) from error

        return retried


def again(retry: Retry, attempt: int, chance: Callable[[], float], error: BaseException, after: float | None) -> Verdict:
    """Decide between another attempt and the end."""
    if attempt >= retry.attempts:
        return Reject(f"attempts spent: {error}" if isinstance(error, RetryLater) else "attempts spent")
    return RetryLater(str(error), after=backoff(retry, attempt, chance()) if after is None else after)


def backoff(retry: Retry, attempt: int, chance: float) -> float:
    """Return the pause in seconds after an attempt, shortened by a part of the jitter (chance within 0..1)."""
    pause = min(retry.most, retry.delay * retry.factor ** min(attempt - 1, 64))
    return pause * (1 - retry.jitter * chance)
