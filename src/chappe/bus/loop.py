"""An event loop that handlers cannot end, and tasks of ours in it that they cannot cancel.

asyncio leaves its loop when a task or a callback raises `SystemExit` or `KeyboardInterrupt`, and `asyncio.all_tasks` gives
everybody every task. Here the loop goes on, and the attempt that is to blame fails with the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Final, NoReturn, TypeVar, cast

from chappe.errors import Snooze
from chappe.failures import one_line, summarize, verdict_of
from chappe.forking import in_child

log = logging.getLogger("chappe.worker")

R = TypeVar("R")

_RUN: Final = cast("Any", asyncio.Handle)._run.__code__  # noqa: SLF001 - nothing public tells whose callback an error left
COPY_ENDED: Final = 70  # the exit code of a forked child
_TURNS: Final = 10  # of the loop, within which whoever awaits a task hears how it ended

# The attempt that runs, also in the tasks and callbacks that it started; nothing in ours.
attempt: Final[contextvars.ContextVar[object]] = contextvars.ContextVar("chappe_attempt", default=None)


def end_copy(name: str) -> NoReturn:
    """End this forked child, which came back from the code of a handler, and say why on stderr: what it would do, its parent does."""
    line = (
        f"{one_line(name)} called os.fork() and its child ({os.getpid()}) came back from it; the child is ended, its parent goes on: "
        "use subprocess or multiprocessing, or end the child with os._exit() in the handler\n"
    )
    os.write(2, line.encode("utf-8", "backslashreplace"))  # not by a logger, whose thread may be the parent's
    os._exit(COPY_ENDED)


class OwnTask(asyncio.Task[R]):
    """A task that a handler cannot cancel, unless it is the one that runs it."""

    runs: object = None
    interruption: BaseException | None = None

    def begin(self, runs: object) -> None:
        """Note what this task, the current one, runs from now on; nothing between two attempts."""
        self.runs = runs
        attempt.set(runs)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel this task; raises `RuntimeError` where the attempt of another one asks for it."""
        asks = attempt.get()
        if asks is not None and asks is not self.runs:
            raise RuntimeError(f"a handler can cancel only what it started: {self.get_name()} is a task of its worker")
        return super().cancel(msg)

    def interrupt(self, why: BaseException) -> None:
        """End what it runs: by an error, or by `CancelledError` if no attempt is to be counted."""
        self.interruption = why
        super().cancel()


def interruption() -> BaseException | None:
    """Return why the current task is interrupted, if it is by its worker."""
    task = asyncio.current_task()
    return task.interruption if isinstance(task, OwnTask) else None


def failure_of(error: BaseException, limit: asyncio.Timeout | None) -> BaseException | None:
    """Return what makes the current attempt fail, by what its handler raised and its time limit; nothing where it fails by nothing.

    So it is where the handler asks to run later without an attempt being counted, where somebody cancels it, and where its worker ends.
    """
    failed = verdict_of(error)
    if not isinstance(failed, asyncio.CancelledError):
        return None if isinstance(failed, Snooze) else failed
    if limit is not None and limit.expired():
        late = TimeoutError("took longer than its timeout")
        late.__cause__ = failed
        return late
    why = interruption()
    return why if isinstance(why, Exception | SystemExit | KeyboardInterrupt) else None


@contextlib.contextmanager
def attempted(what: object, name: str) -> Generator[None]:
    """Have what runs here be an attempt of its own, unless it is part of one: what it does to the event loop is raised here."""
    task, process = asyncio.current_task(), os.getpid()
    own = task if isinstance(task, OwnTask) and attempt.get() is None else None
    if own is not None:
        own.begin(what)
    try:
        yield
    except asyncio.CancelledError:
        if own is None or own.interruption is None:
            raise
        raise own.interruption from None
    finally:
        if os.getpid() != process:
            end_copy(name)
        if own is not None:
            if own.interruption is not None:
                own.uncancel()
                own.interruption = None
            own.begin(None)


class LastingLoop(asyncio.SelectorEventLoop):
    """An event loop that goes on when what a handler started would end it."""

    def __init__(self) -> None:
        super().__init__()
        in_child(self.disown)
        self._main: asyncio.Future[Any] | None = None
        self.set_task_factory(_make_task)

    def run_until_complete(self, future: Any) -> Any:
        """Run until this is done, whatever others do."""
        before: asyncio.Future[Any] | None = self._main
        main: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)
        self._main = main
        try:
            return super().run_until_complete(main)
        finally:
            self._main = before

    def run_forever(self) -> None:
        """Run until `stop` is called by who runs it."""
        while True:
            try:
                super().run_forever()
            except BaseException as error:  # of a task or a callback: asyncio holds back all others itself
                if not self._goes_on(error):
                    raise
            else:
                return

    def disown(self) -> None:
        """Be the copy of a loop in a forked child, which ends before anything else runs in it."""
        with contextlib.suppress(RuntimeError):  # it is closed, or in debug mode and of another thread
            self.call_soon(end_copy, "a task of this process", context=contextvars.Context())
            cast("Any", self)._ready.rotate(1)  # noqa: SLF001 - what was ready is its parent's to run

    def stop(self) -> None:
        """Stop the loop, or end the attempt that asks for it as `sys.exit()` in its place does."""
        if attempt.get() is not None:
            raise SystemExit("a handler stopped the event loop of its worker")
        super().stop()

    def _goes_on(self, error: BaseException) -> bool:
        main, handle = self._main, _handle_of(error.__traceback__)
        failed = None if handle is None else _context_of(handle).get(attempt)
        if main is not None and main.done():
            if not main.cancelled() and main.exception() is error:
                return False
            super().stop()  # what was said of it is forgotten with the error
        elif failed is None and (isinstance(error, Exception) or (main is not None and isinstance(error, KeyboardInterrupt))):
            return False  # the loop itself is broken, or somebody at the terminal wants the end
        log.error("the event loop was left by %s, and goes on", summarize(error), exc_info=error)
        if failed is not None:
            self._interrupt(failed, error, error.__traceback__, _TURNS)
        return True

    def _interrupt(self, failed: object, error: BaseException, trace: TracebackType | None, turns: int) -> None:
        """End an attempt by the error of what it started, unless that was awaited: then it has been raised there."""
        if error.__traceback__ is not trace:
            return
        if turns:
            self.call_soon(self._interrupt, failed, error, trace, turns - 1, context=contextvars.Context())
            return
        for task in asyncio.all_tasks(self):
            if isinstance(task, OwnTask) and task.runs is failed:
                task.interrupt(error)


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine as `asyncio.run` does, in a loop that handlers cannot end."""
    with asyncio.Runner(loop_factory=LastingLoop) as runner:
        return runner.get_loop().run_until_complete(main)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task of ours; what an attempt starts is the application's."""
    return OwnTask[Any](work, loop=loop, **options) if attempt.get() is None else asyncio.Task[Any](work, loop=loop, **options)


def _context_of(handle: Any) -> contextvars.Context:
    return handle._context  # noqa: SLF001 - see _RUN


def _handle_of(trace: TracebackType | None) -> asyncio.Handle | None:
    """Return the callback that an error left the loop from."""
    while trace is not None:
        if trace.tb_frame.f_code is _RUN:
            return trace.tb_frame.f_locals["self"]
        trace = trace.tb_next
    return None
