"""Budgets whose limit nobody declared (row M6, T18, T19): simulated with hidden limits that change, by a clock that is moved."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chappe.engines.budget import Budget, Taught, status_of

QUARTER = 900.0
BEGIN = 1_000_000.0


class Provider:
    """Allows so many calls in fixed or sliding windows, and says how long to wait when it refuses, or not."""

    def __init__(self, limit: int, window: float = QUARTER, *, slides: bool = False, offset: float = 0.0, tells: bool = True) -> None:
        self.limit, self.window, self.slides, self.offset, self.tells = limit, window, slides, offset, tells
        self.allowed: list[float] = []
        self.refused: list[float] = []

    def call(self, now: float) -> float | None:
        """Return nothing if the call is allowed, else until when none is, infinity if that is not said."""
        ends = BEGIN + self.offset + ((now - BEGIN - self.offset) // self.window + 1) * self.window
        inside = [call for call in self.allowed[-self.limit :] if call > (now - self.window if self.slides else ends - self.window - 1e-6)]
        if len(inside) < self.limit:
            self.allowed.append(now)
            return None
        self.refused.append(now)
        until = inside[0] + self.window + 0.001 if self.slides else ends
        return until if self.tells else float("inf")

    def windows(self, calls: list[float], count: int) -> list[int]:
        """Return how many calls were in each of the windows that a user sees."""
        found = [0] * count
        for call in calls:
            if call < BEGIN + count * self.window:
                found[int((call - BEGIN) // self.window)] += 1
        return found


def call_all(provider: Provider, windows: int, change: Callable[[int], int] = lambda _: 0, backlog: int = 10**9) -> Taught:
    """Call a provider whenever its budget has room, for so many windows."""
    taught, now = Taught(Budget(interval=0.0)), BEGIN
    while now < BEGIN + windows * provider.window and len(provider.allowed) < backlog:
        provider.limit = change(int((now - BEGIN) // provider.window)) or provider.limit
        taught = taught.started(now)
        until = provider.call(now)
        if until is not None:
            taught = taught.refused(now, None if until == float("inf") else until)
        now = taught.budget.opens(now + 0.01)
    return taught


KINDS = [
    pytest.param({}, id="fixed windows"),
    pytest.param({"offset": -400.0}, id="fixed windows that began before"),
    pytest.param({"slides": True}, id="a sliding window"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("later", [15, 8, 30])
def test_a_hidden_limit_that_changes_is_used_by_nine_tenths_with_one_refusal_in_a_window_at_most(
    kind: dict[str, float], later: int
) -> None:
    provider = Provider(15, **kind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    call_all(provider, 48, lambda window: 15 if window < 24 else later)
    refused, allowed = provider.windows(provider.refused, 48), provider.windows(provider.allowed, 48)
    assert max(refused[1:]) <= 1
    assert sum(allowed[1:]) >= 0.9 * (23 * 15 + 24 * later)


@pytest.mark.parametrize("kind", KINDS)
def test_where_nobody_says_how_long_to_wait_the_window_is_found_by_trying(kind: dict[str, float]) -> None:
    provider = Provider(15, tells=False, **kind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    taught = call_all(provider, 30)
    refused, allowed = provider.windows(provider.refused, 30), provider.windows(provider.allowed, 30)
    assert (taught.learned.window, max(refused[1:])) == (QUARTER, 1)
    assert sum(allowed[1:]) >= 0.9 * 29 * 15


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("limit", "later", "share"), [(5, 5, 0.9), (15, 15, 0.9), (15, 8, 0.9), (15, 30, 0.88), (60, 60, 0.84)])
def test_m6_where_nobody_says_how_long_to_wait_nine_tenths_are_used_too(
    kind: dict[str, float], limit: int, later: int, share: float
) -> None:
    provider = Provider(limit, tells=False, **kind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    call_all(provider, 48, lambda window: limit if window < 24 else later)
    refused, allowed = provider.windows(provider.refused, 48), provider.windows(provider.allowed, 48)
    assert sum(allowed[1:]) >= share * (23 * limit + 24 * later)
    assert sum(refused[1:]) <= 24, "one in two windows"
    assert max(refused[1:]) <= 2, "two where the limit changes"


@pytest.mark.parametrize("limit", [1, 5, 60])
@pytest.mark.parametrize("window", [60.0, 3600.0])
@pytest.mark.parametrize("slides", [False, True])
def test_small_and_large_limits_are_learned(limit: int, window: float, slides: bool) -> None:
    provider = Provider(limit, window, slides=slides)
    call_all(provider, 12)
    refused, allowed = provider.windows(provider.refused, 12), provider.windows(provider.allowed, 12)
    assert max(refused[1:]) <= 1
    assert sum(allowed[2:]) >= 0.95 * 10 * limit


def test_sixty_users_are_treated_alike() -> None:
    used: list[int] = []
    for user in range(60):
        provider = Provider(15, offset=-15.0 * user)
        call_all(provider, 12)
        used.append(len(provider.allowed))
    assert sum(used) ** 2 / (len(used) * sum(one * one for one in used)) >= 0.95  # Jain's index


def test_a_backlog_of_31_with_a_cap_of_5_leaves_in_six_windows_and_a_seventh_for_the_last() -> None:
    provider = Provider(5)
    call_all(provider, 10, backlog=31)
    assert provider.windows(provider.allowed, 7) == [5, 5, 5, 5, 5, 5, 1]


def test_those_that_had_started_before_a_refusal_was_known_are_one_refusal() -> None:
    taught = Taught(Budget(interval=0.0))
    for _ in range(20):
        taught = taught.started(BEGIN)
    for _ in range(5):
        taught = taught.refused(BEGIN + 1, BEGIN + QUARTER)
    assert status_of("b", taught.budget, taught.kept, BEGIN + 1).limit == 15
    assert taught.budget.opens(BEGIN + 2) == BEGIN + QUARTER


def test_an_account_that_is_not_used_up_does_not_raise_its_pace() -> None:
    taught, now = Taught(Budget(interval=0.0)), BEGIN
    for _ in range(15):
        taught = taught.started(now)
    taught = taught.refused(now, now + QUARTER)
    for window in range(2, 50):
        taught = taught.started(BEGIN + window * QUARTER)
    assert taught.learned.pace == 1.0


def test_what_was_learned_is_shown_with_what_is_left() -> None:
    provider = Provider(15)
    taught = call_all(provider, 1)
    shown = status_of("pocket:ada", taught.budget, taught.kept, BEGIN + 899)
    assert (shown.is_learned, shown.limit, shown.window, shown.since) == (True, 15, QUARTER, provider.refused[0])
    assert shown.left == 0
    assert shown.opens == pytest.approx(1.0)
    assert status_of("b", Budget(interval=2.0, burst=3), None, BEGIN).left is None
