"""What a worker process does at this moment: the stacks of its tasks and threads, on stderr or for whoever asks."""

from __future__ import annotations

import asyncio
import linecache
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import msgspec

from chappe import output
from chappe.bus.context import Context
from chappe.engines.stacks import Stack, asked_beside
from chappe.failures import printable
from chappe.redaction import without_secrets

log = logging.getLogger("chappe.process")

_DEEPEST: Final = 50  # frames of a stack
_MOST: Final = 2000  # stacks


def tell_stacks(loop: asyncio.AbstractEventLoop, table: Path) -> None:
    """Have TTIN and USR1 tell the stacks of this process, also while a handler keeps the event loop to itself."""

    def tell(_: int, frame: FrameType | None) -> None:
        try:
            _tell(stacks_of(loop, frame), asked_beside(table))
        except Exception:  # whatever ran at this moment has nothing to do with it
            log.exception("the stacks cannot be told")

    for number in (signal.SIGTTIN, signal.SIGUSR1):
        signal.signal(number, tell)
        signal.siginterrupt(number, False)


def stacks_of(loop: asyncio.AbstractEventLoop, interrupted: FrameType | None) -> list[Stack]:
    """Return the stacks of all tasks of an event loop and of all other threads; `interrupted` is where its own thread was."""
    current, found, places = asyncio.current_task(loop), list[Stack](), _Places()
    for task in sorted(asyncio.all_tasks(loop), key=lambda one: one.get_name())[:_MOST]:
        is_current = task is current and interrupted is not None
        frames = [one for one, _ in traceback.walk_stack(interrupted)][::-1] if is_current else _awaited(task.get_coro())
        envelope = getattr(getattr(task, "runs", None), "envelope", None)
        found.append(Stack(f"task {task.get_name()}", getattr(envelope, "id", None), places.shown(frames)))
    own = sys._getframe()  # noqa: SLF001 - documented  # pyright: ignore[reportPrivateUsage]
    threads: dict[int, FrameType] = sys._current_frames()  # noqa: SLF001 - the documented way to see threads  # pyright: ignore[reportPrivateUsage]
    for identity, innermost in threads.items():
        frames = [one for one, _ in traceback.walk_stack(innermost)][::-1]
        if own not in frames:
            found.append(Stack(f"thread {identity}", _message_in(frames), places.shown(frames)))
        elif current is None and interrupted is not None:
            found.append(Stack("the event loop", None, places.shown([one for one, _ in traceback.walk_stack(interrupted)][::-1])))
    return found


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """Return the frames from a coroutine down to what it waits for; `Task.get_stack` stops at the first."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame
        stepped = None if frame is None or not hasattr(coroutine, "gi_frame") else frame.f_locals.get("coroutine")  # of `suspended`
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None) or stepped


def _message_in(frames: Sequence[FrameType]) -> str | None:
    """Return the message whose handler a thread runs."""
    contexts = (frame.f_locals.get("context") for frame in frames if frame.f_globals.get("__name__") == "chappe.bus.handler")
    return next((context.id for context in contexts if isinstance(context, Context)), None)


class _Places(dict[tuple[CodeType, int], tuple[str, str]]):
    """The places of one look, each with the code there: hundreds of tasks wait in the same few, and this is said in a signal handler."""

    def shown(self, frames: Iterable[FrameType]) -> list[tuple[str, str]]:
        """Return what is said of the innermost frames."""
        return [self._said_of(frame) for frame in list(frames)[-_DEEPEST:]]

    def _said_of(self, frame: FrameType) -> tuple[str, str]:
        code, line = frame.f_code, frame.f_lineno
        if (known := self.get((code, line))) is None:
            source = _clean(linecache.getline(code.co_filename, line, frame.f_globals).strip())
            known = self[code, line] = f"{code.co_filename}:{line} {code.co_name}", source
        return known


def _clean(text: str) -> str:
    return printable(without_secrets(text))


def _tell(stacks: Sequence[Stack], asked: Path) -> None:
    try:
        handle = os.open(asked, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # nobody has asked for a file
        lines = [f"--- {time.strftime('%H:%M:%S')} process {os.getpid()}"]
        for one in stacks:
            lines.append(f"{one.name}, message {one.message}" if one.message else one.name)
            lines += [f"    {place}" for place, _ in one.frames]
        output.stderr.write(f"{_clean(chr(10).join(lines))}\n".encode("utf-8", "backslashreplace"))
    else:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(stacks))
