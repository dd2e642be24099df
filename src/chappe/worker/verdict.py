"""How an attempt ends: from what the handlers did to the settlement. Pure."""

from __future__ import annotations

import asyncio
import traceback

from chappe.brokers.contract import Dead, Retry
from chappe.errors import Reject, RetryLater, Snooze, Verdict

_LONGEST_ERROR = 8000


def decide(tag: int, error: BaseException) -> Retry | Dead:
    """Return the settlement of an attempt that did not return.

    | the handler                                   | settlement                |
    | --------------------------------------------- | ------------------------- |
    | raised `RetryLater` (or failed, with Retries) | Retry, counted            |
    | raised `Snooze`                               | Retry, not counted        |
    | was cancelled because the worker stops        | Retry at once, not counted |
    | raised `Reject`                               | Dead with its reason      |
    | raised anything else, without Retries         | Dead: failed              |
    """
    match error:
        case RetryLater():
            return Retry(tag, max(0.0, error.after or 0.0), counted=True, error=describe(error))
        case Snooze():
            return Retry(tag, max(0.0, error.after), counted=False, note=None if error.note is None else printable(error.note))
        case Reject():
            return Dead(tag, printable(error.reason), describe(error.__cause__) if error.__cause__ is not None else None)
        case asyncio.CancelledError():
            return Retry(tag, 0.0, counted=False)
        case _:
            return Dead(tag, "failed", describe(error))


def describe(error: BaseException) -> str:
    """Write an error for the history: the traceback of its cause, its end kept if it is long."""
    cause = error.__cause__ if isinstance(error, Verdict) and error.__cause__ is not None else error
    if isinstance(cause, Verdict):
        return printable(str(cause))
    text = printable("".join(traceback.format_exception(cause)).rstrip())
    return text if len(text) <= _LONGEST_ERROR else f"…{text[-_LONGEST_ERROR:]}"


def printable(text: str) -> str:
    """Return a text that can be stored: lone surrogates, as in the name of a file that is no UTF-8, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
