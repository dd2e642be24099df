"""What there is once for each event loop: the loops of two threads, or of two calls of `asyncio.run`, share nothing."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
_LOOK: Final = 0.5
_UNDER_WAY: Final[set[asyncio.Task[None]]] = set()  # an event loop itself holds its tasks by weak references only


class PerLoop(Generic[T]):
    """One value for each event loop, made when it is first asked for and forgotten when the loop is closed."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()

    def here(self) -> T:
        """Return the value of the running loop."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            with self._lock:
                for closed in [known for known in self._values if known.is_closed()]:
                    del self._values[closed]  # a value that refers to its loop would keep both for ever
                value = self._values[loop] = self._make()
        return value

    def pop(self) -> T | None:
        """Forget the value of the running loop, and return it if there was one."""
        with self._lock:
            return self._values.pop(asyncio.get_running_loop(), None)

    def clear(self) -> None:
        """Forget the values of all loops."""
        with self._lock:
            self._values.clear()


class _Done(Awaitable[None]):
    """What was done before it is awaited."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE: Final = _Done()


def run_at(home: asyncio.AbstractEventLoop | None, work: Coroutine[Any, Any, None]) -> Awaitable[None]:
    """Run a coroutine on its own loop, whoever calls: in a thread it is done when this returns, else when it is awaited or soon."""
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    home = home or here
    if home is None:
        work.close()
        return DONE
    if here is home:
        task = home.create_task(work)
        _UNDER_WAY.add(task)
        task.add_done_callback(_UNDER_WAY.discard)
        return task
    running = asyncio.run_coroutine_threadsafe(work, home)
    if here is not None:
        return asyncio.wrap_future(running)
    while True:
        try:
            running.result(_LOOK)
        except TimeoutError:
            if running.done():
                raise  # its own
            if home.is_closed():
                raise RuntimeError("the event loop that would do it is closed") from None
        else:
            return DONE
