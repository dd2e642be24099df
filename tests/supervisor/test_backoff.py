"""Back-off: when a process that ended is started again."""

import pytest

from chappe.supervisor.backoff import crashes_after, is_planned, pause


@pytest.mark.parametrize(
    ("code", "lived", "asked", "planned"),
    [(0, 0.1, True, True), (0, 0.1, False, False), (0, 10.0, False, True), (77, 0.1, False, True), (1, 99.0, True, False),
     (75, 99.0, False, False), (78, 99.0, False, False), (-9, 99.0, True, False), (-15, 99.0, True, False)],
)  # fmt: skip
def test_which_ends_were_planned(code: int, lived: float, asked: bool, planned: bool) -> None:
    assert is_planned(code, lived, asked=asked) is planned


@pytest.mark.parametrize(
    ("crashes", "code", "lived", "after"),
    [(0, 1, 0.1, 1), (1, 1, 0.1, 2), (5, -9, 9.9, 6), (5, -9, 10.0, 1), (5, 0, 0.1, 6), (5, 77, 0.1, 0), (0, 77, 1000.0, 0)],
)
def test_crashes_in_a_row(crashes: int, code: int, lived: float, after: int) -> None:
    assert crashes_after(crashes, code, lived) == after


def test_what_others_kill_has_not_failed_by_itself() -> None:
    assert crashes_after(5, -9, 0.1, by_others=True) == 1


def test_the_first_crash_costs_nothing_and_the_pause_never_exceeds_a_minute() -> None:
    pauses = [pause(crashes, luck=1.0) for crashes in range(20)]
    assert pauses[:6] == [0.0, 0.0, 0.5, 1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60.0
    assert pause(3, retries=2, luck=1.0) == 60.0


def test_processes_that_crash_together_start_again_at_moments_of_their_own() -> None:
    assert [pause(6, luck=luck) for luck in (0.0, 0.25, 1.0)] == [4.0, 5.0, 8.0]
