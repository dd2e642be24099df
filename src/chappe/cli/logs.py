"""How our own processes log: one line each on stderr, for people on a terminal and as JSON otherwise.

Written here because the libraries for it cost each process 5 MB (docs/decisions/performance.md).
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final

from chappe.messages.codec import encode_json
from chappe.settings import Settings

_COLOURS: Final = {"debug": 2, "info": 32, "warning": 33, "error": 31, "critical": 41}


def set_up(settings: Settings, role: str) -> None:
    """Send the standard library's logging to stderr; library modules know nothing of it."""
    people = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ForPeople(role, colours=not os.environ.get("NO_COLOR")) if people else ForPrograms(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    logging.getLogger("pika").setLevel(max(root.level, logging.WARNING))  # it tells each step of each connection


class ForPrograms(logging.Formatter):
    """One JSON object a line, whatever the message contains."""

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
        return encode_json(line).decode()


class ForPeople(logging.Formatter):
    """The time, the level, what happened, and who says it."""

    def __init__(self, role: str, *, colours: bool) -> None:
        super().__init__()
        self._role = role
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        shown = f"\x1b[{_COLOURS.get(level, 0)}m{level:8}\x1b[0m" if self._colours else f"{level:8}"
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in record.getMessage())
        line = f"{at} {shown} {text}  [{self._role} {os.getpid()}]"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
