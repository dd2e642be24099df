"""Durable commands and events for Python, from one SQLite file to a RabbitMQ cluster."""

import sys as _sys

from chappe.search_path import put_aside_project_folders as _put_aside_project_folders

_put_aside_project_folders(_sys.path)  # before anything else is imported, which could be found there

from chappe.app import App
from chappe.bus.bus import Middleware
from chappe.bus.context import Context
from chappe.bus.task import Task
from chappe.errors import (
    BrokerUnavailable,
    ChappeError,
    CommandFailed,
    InvalidMessage,
    Reject,
    ResultTimeout,
    RetryLater,
    Snooze,
    Unconfirmed,
    Unroutable,
)
from chappe.messages.capabilities import Budget, Exchange, Process, Rate, Retry, Unique
from chappe.messages.envelope import Receipt
from chappe.messages.message import Command, Event, replace
from chappe.messages.topology import bind
from chappe.settings import Pool, Settings
from chappe.triggers.schedule import cron, every

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped, as a table of contents
    # The application
    "App", "Context", "Middleware", "Receipt", "Task",
    # Messages
    "Command", "Event", "replace",
    # Capabilities
    "Budget", "Exchange", "Process", "Rate", "Retry", "Unique", "bind",
    # Triggers
    "cron", "every",
    # What a handler says
    "Reject", "RetryLater", "Snooze",
    # Errors
    "BrokerUnavailable", "CommandFailed", "InvalidMessage", "ChappeError", "ResultTimeout", "Unconfirmed", "Unroutable",
    # Configuration
    "Pool", "Settings",
]  # fmt: skip
