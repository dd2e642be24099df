"""How an attempt ends: from what the handlers did to the settlement."""

from __future__ import annotations

import asyncio
import logging
import re

from chappe.engines.contract.broker import Dead, Delivery, Retry
from chappe.errors import Reject, RetryLater, Snooze, Throttled
from chappe.failures import describe, first_line, one_line, verdict_of, why_dead

log = logging.getLogger("chappe.worker")

_LONGEST_RETURN = 5.0
_UNKNOWN = re.compile(r"not known since (\d+(?:\.\d+)?)(?:: (.*))?", re.DOTALL)


def decide(tag: int, error: BaseException, *, stopping: bool = False) -> Retry | Dead:
    """Return the settlement of an attempt that did not return; `stopping` says that its worker ends.

    | the handler                                         | settlement                     |
    | --------------------------------------------------- | ------------------------------ |
    | raised `RetryLater` (or failed, with Retries)       | Retry, counted                 |
    | raised `Snooze`                                     | Retry, not counted             |
    | was not begun, because its budget had no room       | Retry when that has room, not counted |
    | was cancelled because the worker stops              | Retry at once, not counted     |
    | raised `Reject`                                     | Dead with its reason           |
    | raised a group of errors with a `Reject` in it      | as that `Reject`               |
    | raised a group of `RetryLater` and `Snooze` only    | as the `RetryLater`, or the `Snooze`, that waits longest |
    | raised anything else, without Retries               | Dead: failed                   |
    """
    match verdict_of(error):
        case RetryLater() as asked:
            return Retry(tag, max(0.0, asked.after or 0.0), counted=True, error=describe(asked))
        case Throttled() as asked:
            return Retry(tag, max(0.0, asked.after), counted=False, note=asked.note, budget=asked.budget)
        case Snooze() as asked:
            return Retry(tag, max(0.0, asked.after), counted=False, note=None if asked.note is None else _storable(asked.note))
        case Reject() as asked:
            return _rejected(tag, asked)
        case asyncio.CancelledError() if stopping:
            return Retry(tag, 0.0, counted=False)
        case failed:
            return Dead(tag, "failed", describe(failed))


def report(delivery: Delivery, settlement: Retry | Dead) -> None:
    """Log how an attempt ended that failed."""
    envelope = delivery.envelope
    if isinstance(settlement, Dead):
        why = why_dead(settlement.reason, settlement.error)
        log.error("%s %s is a dead letter after attempt %d: %s", envelope.type, envelope.id, delivery.attempt, why)
    elif settlement.counted:
        why, after = first_line(settlement.error), settlement.after
        log.warning("%s %s failed in attempt %d (%s), again in %.1f s", envelope.type, envelope.id, delivery.attempt, why, after)


def _rejected(tag: int, asked: Reject) -> Dead:
    """Return the dead letter of a `Reject`: its reason is one line, and its error all that it says, and where it was raised."""
    reason, error = one_line(asked.reason) or "rejected", describe(asked)
    return Dead(tag, reason, None if error in (reason, "") else error)


def not_understood(delivery: Delivery, reason: str, error: str, *, now: float, window: float) -> Retry | Dead:
    """Return the settlement of a message that this release does not know: others may, while a new one is on its way (design §3).

    For `window` seconds from the first time it is returned, delayed and uncounted; then it is a dead letter.
    """
    returned = _UNKNOWN.fullmatch(delivery.note or "")
    since = float(returned[1]) if returned else now
    if now - since >= window:
        return Dead(delivery.tag, reason, error)
    left = own_note(delivery.note)
    note = f"not known since {since}{'' if left is None else f': {left}'}"
    return Retry(delivery.tag, min(_LONGEST_RETURN, 1.0 + (now - since) / 4), counted=False, note=note)


def own_note(note: str | None) -> str | None:
    """Return the note that the application left, without what `not_understood` adds to it."""
    returned = None if note is None else _UNKNOWN.fullmatch(note)
    return note if returned is None else returned[2]


def _storable(text: str) -> str:
    """Return a text that can be stored: lone surrogates, as in the name of a file that is no UTF-8, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
