"""The slot that a message is handled in, and the rest of a coroutine that suspended: when it executes and when it waits."""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, NamedTuple, TypeVar

T = TypeVar("T")


def _nothing(_: object) -> None: ...


def _call_later(seconds: float, leave: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(seconds, leave)


class Slot(NamedTuple):
    """What a message tells its slot, and what a slot lets a message do that waits for others.

    `step` and `in_thread` note whether code of the handler executes on the event loop and in a thread, `hold` counts the messages for
    which no slot is needed now, and `leave_later` calls when the oldest of them has waited for so many seconds.
    """

    step: Callable[[bool], None] = _nothing
    in_thread: Callable[[bool], None] = _nothing
    hold: Callable[[int], None] = _nothing
    leave_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle | None] = _call_later


_NO_SLOT: Final = Slot()
current_slot: Final = contextvars.ContextVar("current_slot", default=_NO_SLOT)


@types.coroutine
def suspended(coroutine: Coroutine[Any, Any, T], waits_for: Any, executes: Callable[[bool], None]) -> Generator[Any, Any, T]:
    """Await the rest of a coroutine whose first step was taken, and say before and after each step whether it executes.

    Only what suspends pays for it: the first step, which for most is the only one, is the caller's.
    """
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
