"""How our own processes log: one line each on stderr, for people on a terminal and as JSON otherwise.

Written here because the libraries for it cost each process 5 MB (docs/decisions/performance.md).
"""

from __future__ import annotations

import atexit
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from chappe import output
from chappe.cli.terminal import escaped_json
from chappe.failures import printable
from chappe.redaction import without_secrets
from chappe.settings import Settings
from chappe.words import counted

_COLOURS: Final = {"debug": 2, "info": 32, "warning": 33, "error": 31, "critical": 41}
_OURS: Final = ("chappe", "uvicorn", "asyncio")  # what tells how our processes do; the others belong to the application
_TERMINAL: Final = (1, 2)
_MOST_RECORDS: Final = 1000  # that wait for the handlers of the application
_KNOWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def set_up(settings: Settings, role: str) -> None:
    """Send the standard library's logging to stderr; library modules know nothing of it."""
    people = settings.log_format == "console" or (settings.log_format == "auto" and os.isatty(2))
    handler = LogHandler()
    handler.setFormatter(ForPeople(role, colours=not os.environ.get("NO_COLOR")) if people else ForPrograms(role))
    output.stderr.says_dropped = handler.says_dropped
    level = settings.log_level.upper()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("pika").setLevel(max(root.level, logging.WARNING))  # it tells each step of each connection
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler, PassOn()]
        logger.setLevel(level)
        logger.propagate = False
    keep_loggers()
    atexit.unregister(output.flush_all)
    atexit.register(output.flush_all)  # before the application's handlers are closed


def keep_loggers() -> None:
    """Have the loggers that `set_up` gave a handler go on, whatever an application does to logging.

    `dictConfig` and `fileConfig` disable every logger that they do not name, unless they are told not to, and nobody means ours by
    it. A configuration that names one of ours has its way.
    """
    known = logging.root.manager.loggerDict
    ours = {name for name in _OURS if any(isinstance(handler, PassOn) for handler in logging.getLogger(name).handlers)}
    for name, logger in list(known.items()):
        if name.partition(".")[0] in ours and type(logger) is logging.Logger:
            logger.__class__ = SteadyLogger  # it exists already, and is held by the module that made it


class SteadyLogger(logging.Logger):
    """A logger that cannot be disabled by the way: neither by a configuration that does not name it, nor by `logging.disable`.

    A record factory of the application that raises, which our code does not expect of a log line, does not take part.
    """

    def makeRecord(self, *given: Any, **named: Any) -> logging.LogRecord:  # noqa: N802 - the standard library's name
        try:
            return super().makeRecord(*given, **named)
        except Exception:  # whatever it is
            return logging.LogRecord(*given[:8], sinfo=given[9])

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None: ...  # pyright: ignore[reportIncompatibleVariableOverride]

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        return level >= self.getEffectiveLevel()


class LogHandler(logging.Handler):
    """Writes lines to stderr, and never keeps who logs waiting."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # whatever the arguments of the line do when they are written as text
            note = f"a log line cannot be written ({type(error).__name__}): {record.msg!s}"
            line = self.format(logging.makeLogRecord({**record.__dict__, "msg": "%s", "args": (note,), "exc_info": None}))
        output.stderr.write(f"{without_secrets(line)}\n".encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Wait a little for what was written before: a configuration that takes the place of ours calls this, too."""
        output.stderr.flush()

    def says_dropped(self, count: int) -> bytes:
        """Return the line that tells how many are missing."""
        told = _told(f"{counted(count, 'log line')} dropped: nobody read stderr")
        return f"{self.format(told)}\n".encode()


class PassOn(logging.Handler):
    """Hands our records to the handlers that the application gave the root logger, which may take their time, but for those that print."""

    def emit(self, record: logging.LogRecord) -> None:
        handlers = [one for one in logging.root.handlers if not isinstance(one, LogHandler) and record.levelno >= one.level]
        if handlers:
            _passing.put((record, handlers))


def _pass(item: tuple[logging.LogRecord, list[logging.Handler]]) -> bool:
    record, handlers = item
    for handler in handlers:
        try:
            if not _prints(handler):  # we have printed it
                handler.handle(record)
        except Exception:  # of the application's own handler: who logs has nothing to do with it
            handler.handleError(record)
    return True


def _dropped(count: int) -> tuple[logging.LogRecord, list[logging.Handler]]:
    told = _told(f"{counted(count, 'log record')} dropped: a handler that the application gave the root logger kept others waiting")
    return told, logging.root.handlers[:]


def _told(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "chappe.logs", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text})


_passing: Final = output.Outlet(_pass, _dropped, _MOST_RECORDS)
output.outlets.append(_passing)


def _prints(handler: logging.Handler) -> bool:
    """Tell whether a handler writes to where our stdout or stderr goes, as those of the standard library and of rich may."""
    stream: Any = getattr(handler, "stream", None) or getattr(getattr(handler, "console", None), "file", None)
    try:
        target = os.fstat(stream.fileno()) if stream is not None else Path(cast("Any", handler).baseFilename).stat()
        return any(os.path.samestat(target, os.fstat(handle)) for handle in _TERMINAL)
    except (AttributeError, OSError, ValueError):
        return False


class ForPrograms(logging.Formatter):
    """One JSON object a line, whatever the message contains, with the fields of `extra`."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "role": self._role,
            "pid": os.getpid(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        extra = {name: value for name, value in record.__dict__.items() if name not in _KNOWN and not name.startswith("_")}
        try:
            return escaped_json({**extra, **line}, indent=0)
        except (TypeError, ValueError, RecursionError):
            return escaped_json({**{name: repr(value) for name, value in extra.items()}, **line}, indent=0)


class ForPeople(logging.Formatter):
    """The time, the level, what happened, and who says it; further lines of a text are indented, so that none looks like another's."""

    def __init__(self, role: str, *, colours: bool) -> None:
        super().__init__()
        self._role = role
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        shown = f"\x1b[{_COLOURS.get(level, 0)}m{level:8}\x1b[0m" if self._colours else f"{level:8}"
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        parts = [f"{record.getMessage()}  [{self._role} {os.getpid()}]"]
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(record.stack_info)
        text = printable("\n".join(parts)).replace("\n", "\n    ")
        return f"{at} {shown} {text}"
