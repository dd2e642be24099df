"""The verdict: from what the handlers did to the settlement."""

import asyncio

import msgspec
import pytest

from chappe import Reject, RetryLater, Snooze
from chappe.engines.contract.broker import Dead, Delivery, Retry
from chappe.failures import first_line
from chappe.messages.envelope import Envelope
from chappe.worker.verdict import decide, not_understood, own_note


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


def test_what_this_release_does_not_know_is_returned_uncounted_for_the_deploy_window_and_then_dead() -> None:
    note: str | None = None
    now, returned = 1000.0, 0
    while True:
        settlement = not_understood(
            Delivery(7, "q", 1, Envelope("1", "new.type", b"{}"), note), "unknown message", "no such", now=now, window=60.0
        )
        if isinstance(settlement, Dead):
            break
        assert not settlement.counted
        assert 0 < settlement.after <= 5
        note, now, returned = settlement.note, now + settlement.after, returned + 1
    assert settlement == Dead(7, "unknown message", "no such")
    assert 60 <= now - 1000 < 66
    assert returned > 10


@pytest.mark.parametrize("left", ["rate", "two\nlines: here", "not known since yesterday", "", None])
def test_the_window_begins_anew_for_a_message_that_a_handler_left_a_note_with_and_the_note_is_kept(left: str | None) -> None:
    delivery = Delivery(7, "q", 1, Envelope("1", "new.type", b"{}"), left)
    for now in (5.0, 5.5):
        assert own_note(delivery.note) == left
        settlement = not_understood(delivery, "r", "e", now=now, window=1.0)
        assert isinstance(settlement, Retry)
        delivery = msgspec.structs.replace(delivery, note=settlement.note)
    assert own_note(delivery.note) == left
    assert isinstance(not_understood(delivery, "r", "e", now=6.0, window=1.0), Dead)
    assert isinstance(not_understood(delivery, "r", "e", now=5.0, window=0.0), Dead)
