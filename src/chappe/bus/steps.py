"""The rest of a coroutine that suspended, with a note of when it executes and when it waits."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

executes_in_thread: contextvars.ContextVar[Callable[[bool], None]] = contextvars.ContextVar("executes_in_thread", default=lambda _: None)


class Suspended(Generic[T]):
    """Awaits the rest of a coroutine whose first step was taken, and says before and after each step whether it executes.

    Only what suspends pays for it: the first step, which for most is the only one, is the caller's.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], waits_for: Any, executes: Callable[[bool], None]) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._executes = executes

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine, waits_for, executes = self._coroutine, self._waits_for, self._executes
        while True:
            executes(False)
            sent: Any = None
            thrown: BaseException | None = None
            try:
                sent = yield waits_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # given on outside of this clause, or it would be the context of what the handler raises
                thrown = error
            executes(True)
            try:
                waits_for = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
            except StopIteration as ended:
                return ended.value
            finally:
                thrown = None
