"""Durable commands and events for Python, from one SQLite file to a RabbitMQ cluster."""

from noria.app import App
from noria.bus.bus import Middleware
from noria.bus.context import Context
from noria.bus.task import Task
from noria.errors import (
    BrokerUnavailable,
    CommandFailed,
    InvalidMessage,
    NoriaError,
    Reject,
    ResultTimeout,
    RetryLater,
    Snooze,
    Unconfirmed,
    Unroutable,
)
from noria.messages.capabilities import Exchange, Rate, Retry, Unique
from noria.messages.envelope import Receipt
from noria.messages.message import Command, Event, replace
from noria.messages.topology import bind
from noria.settings import Pool, Settings
from noria.triggers.schedule import cron, every

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped, as a table of contents
    # The application
    "App", "Context", "Middleware", "Receipt", "Task",
    # Messages
    "Command", "Event", "replace",
    # Capabilities
    "Exchange", "Rate", "Retry", "Unique", "bind",
    # Triggers
    "cron", "every",
    # What a handler says
    "Reject", "RetryLater", "Snooze",
    # Errors
    "BrokerUnavailable", "CommandFailed", "InvalidMessage", "NoriaError", "ResultTimeout", "Unconfirmed", "Unroutable",
    # Configuration
    "Pool", "Settings",
]  # fmt: skip
