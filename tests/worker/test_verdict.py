"""The verdict: from what the handlers did to the settlement."""

import asyncio

import pytest

from chappe import Reject, RetryLater, Snooze
from chappe.brokers.contract import Dead, Retry
from chappe.failures import first_line
from chappe.worker.verdict import decide


def caused(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as raised:  # noqa: BLE001 - to have it with its cause
        return raised


@pytest.mark.parametrize(
    ("error", "settlement"),
    [
        (RetryLater("busy", after=3.0), Retry(7, 3.0, counted=True, error="busy")),
        (RetryLater("busy"), Retry(7, 0.0, counted=True, error="busy")),
        (RetryLater("busy", after=-3.0), Retry(7, 0.0, counted=True, error="busy")),
        (Snooze(4.0, note="kept"), Retry(7, 4.0, counted=False, note="kept")),
        (Snooze(-1.0), Retry(7, 0.0, counted=False)),
        (Reject("never"), Dead(7, "never")),
        (ExceptionGroup("one", [Reject("never")]), Dead(7, "never")),
        (ExceptionGroup("two", [RetryLater("busy", after=3.0), Snooze(9.0)]), Retry(7, 3.0, counted=True, error="busy")),
        (ExceptionGroup("two", [Snooze(9.0), Snooze(4.0)]), Retry(7, 9.0, counted=False)),
        (Reject("   "), Dead(7, "rejected")),
        (Reject("no customer\nsee the list"), Dead(7, "no customer", "no customer\nsee the list")),
    ],
)
def test_each_end_has_its_settlement(error: BaseException, settlement: Retry | Dead) -> None:
    assert decide(7, error) == settlement


def test_a_cancellation_is_no_attempt_only_if_the_worker_stops() -> None:
    assert decide(7, asyncio.CancelledError(), stopping=True) == Retry(7, 0.0, counted=False)
    assert isinstance(decide(7, asyncio.CancelledError()), Dead)


def test_any_other_error_without_retries_is_a_dead_letter_with_its_traceback() -> None:
    settlement = decide(7, OSError("broken"))
    assert isinstance(settlement, Dead)
    assert (settlement.reason, settlement.error) == ("failed", "OSError: broken")


def test_the_cause_of_a_verdict_is_what_the_history_shows() -> None:
    retried = decide(7, caused(RetryLater("x", after=1.0), OSError("the disk")))
    assert isinstance(retried, Retry)
    assert first_line(retried.error) == "OSError: the disk"
    rejected = decide(7, caused(Reject("attempts spent"), OSError("the disk")))
    assert isinstance(rejected, Dead)
    assert (rejected.reason, first_line(rejected.error)) == ("attempts spent", "OSError: the disk")
