"""How an error is told to people: one line wherever it is mentioned, and the traceback below that line where it is kept."""

from __future__ import annotations

import asyncio
import functools
import linecache
import sysconfig
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, cast

from chappe.errors import Reject, RetryLater, Snooze, Verdict

_LONGEST_LINE: Final = 500
_LONGEST_TEXT: Final = 8000
_BEGINNING: Final = 2500  # of a long text, where its line and its first cause stand; the rest is kept of its end
_READ: Final = 100_000  # characters of a message that are looked at: it may have any length
_LEAVES: Final = 20
_LONGEST_CODE: Final = 120
_OURS: Final = f"{Path(__file__).parent}/"
_INSTALLED: Final = tuple({f"{sysconfig.get_path(name)}/" for name in ("purelib", "platlib")} | {"/usr/lib/python3/dist-packages/"})
_PYTHON: Final = ("<", *(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib")))


class Elsewhere(Exception):
    """An error that was raised in another process, by what was told of it there."""

    def __init__(self, summary: str, text: str) -> None:
        self.summary = summary
        self.text = text
        super().__init__(summary)


def summarize(error: BaseException) -> str:
    """Return an error as `Class: first line of its message`, whatever its own methods do."""
    if isinstance(error, Elsewhere):
        return error.summary
    name, members = one_line(_said(lambda: type(error).__name__)), _members(error)
    text = one_line(_said(lambda: error.message if isinstance(error, BaseExceptionGroup) else str(error)))
    if members is not None:
        count = len(members)
        text += f" ({count} sub-exception{'s' if count != 1 else ''})"
    elif isinstance(error, asyncio.CancelledError):
        text = text or "a task or future that was waited for was cancelled"
    return f"{name}: {text}" if text else name


def describe(error: BaseException) -> str:
    """Return the text that is kept of an error, or of the cause of a verdict: its summary, its place, and its traceback."""
    if isinstance(error, Verdict):
        if error.__cause__ is None:
            return _cut("\n".join([printable(_said(lambda: str(error))).strip(), *_placed(error)]))
        error = error.__cause__
    if isinstance(error, Elsewhere):
        return error.text
    summary = summarize(error)
    parts = [summary, *_placed(error)]
    if _members(error) is not None:
        parts += [f"  {summarize(leaf)}" for leaf, _ in zip(_leaves(error), range(_LEAVES), strict=False)]
    trace = printable(_said(lambda: "".join(traceback.format_exception(error)))).strip()
    if trace != summary:
        parts += ["", trace]
    return _cut("\n".join(parts))


def _placed(error: BaseException) -> list[str]:
    """Return the line that says where an error was raised: `  at MODULE:FUNCTION line NUMBER (in HANDLER): CODE`.

    It is the innermost place in the code of the application, whose handler is named where that is another function. Libraries are
    none of it, unless the application itself is installed beside them. Of a group it is the place of its first member.
    """
    walked = list(traceback.walk_tb(next(_leaves(error)).__traceback__)) or list(traceback.walk_tb(error.__traceback__))
    kinds = [_kind_of(frame.f_code.co_filename) for frame, _ in walked]
    packages = [_package(frame) if kind in ("application", "installed") else "" for (frame, _), kind in zip(walked, kinds, strict=True)]
    own = next(filter(None, packages), None)
    places = [at for at, kind in enumerate(kinds) if kind == "application" or (kind == "installed" and packages[at] == own)]
    if not places:
        return []
    frame, line = walked[places[-1]]
    called = max((at for at in range(places[-1]) if kinds[at] == "chappe"), default=-1)
    handler = walked[next(at for at in places if at > called)][0]
    beside = "" if handler.f_code is frame.f_code else f" (in {_name_of(handler)})"
    code = one_line(_said(lambda: linecache.getline(frame.f_code.co_filename, line, frame.f_globals)))[:_LONGEST_CODE]
    return [f"  at {_name_of(frame)} line {line}{beside}{code and f': {code}'}"]


@functools.lru_cache(maxsize=1024)
def _kind_of(file: str) -> str:
    if file.startswith(_OURS):
        return "chappe"
    if file.startswith(_INSTALLED):
        return "installed"
    return "python" if file.startswith(_PYTHON) else "application"


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _name_of(frame: FrameType) -> str:
    return printable(f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}".replace(" ", "-"))


def first_line(text: str | None) -> str:
    """Return the summary of an error from the text that is kept of it: those who ask for a result need not see our source."""
    return one_line(text or "")


def why_dead(reason: str, error: str | None) -> str:
    """Return why a message is dead, in one line: its reason, and the summary of its error if that says more."""
    summary = first_line(error)
    return f"{reason}: {summary}" if summary and summary != reason else reason


def one_line(text: str) -> str:
    """Return the first line that says something, printable and not too long."""
    line = next((line for line in text[:_READ].splitlines() if line.strip()), "").strip()
    line = printable(line.replace("\t", " "))
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"


def printable(text: str) -> str:
    """Return a text with escapes in the place of control characters and lone surrogates; tabs and ends of lines stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text.replace("\r\n", "\n"))


def verdict_of(error: BaseException) -> BaseException:
    """Return the verdict that a group of errors amounts to, as a `TaskGroup` raises one; any other error stays itself.

    One `Reject` in it counts whatever else failed. Only verdicts: `RetryLater` before `Snooze`, the longest of its kind.
    """
    if _members(error) is None:
        return error
    leaves = list(_leaves(error))
    rejects = [leaf for leaf in leaves if isinstance(leaf, Reject)]
    others = any(not isinstance(leaf, Verdict) for leaf in leaves)
    if rejects:
        reject = rejects[0]
        if others and reject.__cause__ is None:
            reject.__cause__ = error
        return reject
    waits = [leaf for leaf in leaves if isinstance(leaf, RetryLater)] or [leaf for leaf in leaves if isinstance(leaf, Snooze)]
    return error if others or not waits else max(waits, key=lambda wait: wait.after or 0.0)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group and in the groups inside it, in order."""
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if (members := _members(one)) is None:
            yield one
        else:
            waiting += reversed(members)


def _members(error: BaseException) -> Sequence[BaseException] | None:
    """Return what is in a group of errors; nothing for an error that is none."""
    return cast("BaseExceptionGroup[BaseException]", error).exceptions if isinstance(error, BaseExceptionGroup) else None


def _said(say: Callable[[], str]) -> str:
    """Return what an error says of itself, or that it cannot."""
    try:
        return str.__str__(say())  # not the methods of a subclass of str
    except BaseException as error:  # whatever its __str__ does: it must not cost the message its verdict
        return f"(it cannot be written: {type(error).__name__})"


def _escaped(character: str) -> str:
    return character if unicodedata.category(character) == "Zs" else repr(character)[1:-1]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_BEGINNING]}\n…\n{text[-(_LONGEST_TEXT - _BEGINNING) :]}"
