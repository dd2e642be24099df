"""The generic cell rate algorithm, without places in a line."""

from __future__ import annotations

import pytest

from chappe.engines.budget import Budget


def starts(budget: Budget, count: int, now: float = 100.0) -> list[float]:
    """Return when so many may start, each at the first moment that it may."""
    found: list[float] = []
    for _ in range(count):
        found.append(round(budget.opens(now), 6))
        budget = budget.started(now)
    return found


def test_there_is_one_start_for_each_interval() -> None:
    assert starts(Budget(interval=0.5), 4) == [100.0, 100.5, 101.0, 101.5]


def test_a_burst_may_start_at_once_and_then_the_steady_rate_holds() -> None:
    assert starts(Budget(interval=0.5, burst=3), 5) == [100.0, 100.0, 100.0, 100.5, 101.0]


def test_before_it_is_closed_no_more_there_is_no_start() -> None:
    assert starts(Budget(interval=0.5, burst=2, closed=130.0), 3) == [130.0, 130.0, 130.5]


@pytest.mark.parametrize("budget", [
    Budget(interval=0.5), Budget(interval=0.5, burst=3), Budget(arrival=100.7, interval=0.25), Budget(arrival=103.0, interval=2.0, burst=2),
    Budget(interval=0.01, burst=5, closed=100.03), Budget(interval=1 / 3, burst=2), Budget(arrival=99.0, interval=10.0, burst=10),
])  # fmt: skip
@pytest.mark.parametrize("ahead", [0.0, 0.05, 1.0])
def test_there_is_room_for_as_many_as_may_start_until_then(budget: Budget, ahead: float) -> None:
    room = budget.room(100.0, 100.0 + ahead)
    expected = sum(moment <= 100.0 + ahead for moment in starts(budget, 200))
    assert abs(room - expected) <= (1 if expected > 1 else 0), "but for how floats are rounded"
    assert budget.started(100.0, room).opens(100.0) >= 100.0 + ahead or room == 0
