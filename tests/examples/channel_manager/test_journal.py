"""The channel server's log is bounded, yet its numbers and counts go on."""

from __future__ import annotations

from channel_manager.journal import Journal


def filled(count: int, kept: int) -> Journal:
    journal = Journal(kept)
    for n in range(count):
        journal.note("alpine", f"a-{n}", None, 100.0 + n, 100.0, "ok")
    return journal


def test_entries_are_numbered_from_one_and_followed_from_any_number() -> None:
    journal = filled(5, kept=10)
    assert [entry.n for entry in journal.after(0, 10)] == [1, 2, 3, 4, 5]
    assert [entry.n for entry in journal.after(3, 10)] == [4, 5]
    assert [entry.n for entry in journal.after(1, 2)] == [2, 3]
    assert journal.after(5, 10) == journal.after(99, 10) == []


def test_the_oldest_entries_leave_a_full_log_and_the_counts_stay() -> None:
    journal = filled(25, kept=10)
    assert [entry.n for entry in journal.after(0, 100)] == list(range(16, 26))
    assert journal.stats()["alpine"]["outcomes"] == {"ok": 25}


def test_latency_is_from_requested_to_received_over_the_pushes_that_were_taken() -> None:
    journal = filled(101, kept=10)
    journal.note("alpine", "a", None, 9e9, 0.0, "broken")
    journal.note("alpine", "a", None, 9e9, None, "ok")
    latency = journal.stats()["alpine"]["latency"]
    assert (latency["count"], latency["p50"], latency["p99"], latency["max"]) == (101, 50.0, 99.0, 100.0)


def test_nothing_seen_gives_no_figures() -> None:
    assert Journal().stats() == {}
