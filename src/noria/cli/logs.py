"""How our own processes log: one line each on stderr, for people on a terminal and as JSON otherwise."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from noria.settings import Settings


def set_up(settings: Settings, role: str) -> None:
    """Send the standard library's logging through structlog; library modules know nothing of it."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    people = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    last: Any = (
        structlog.dev.ConsoleRenderer(colors=people and not os.environ.get("NO_COLOR")) if people else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _bound(role=role, pid=os.getpid())],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())


def _bound(**values: Any) -> Any:
    def add(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
        event.update(values)
        return event

    return add
