"""Shares of time between tenants, decided without an engine (row M8)."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest

from chappe.engines.fairness import Shares, allotted


class Workers:
    """A simulation: so many slots, and tenants of which each has more waiting than is ever done."""

    def __init__(self, slots: int, jobs: dict[str, float], weights: dict[str, float]) -> None:
        self.weights = weights
        self.shares = Shares(weights)
        self.jobs = jobs
        self.now = 0.0
        self.had: Counter[str] = Counter()
        self.started: list[str] = []
        self._slots = slots
        self._ends: list[tuple[float, int, str, float]] = []
        self._chance = random.Random(1)
        for tenant in jobs:
            self.shares.arrive(tenant)

    def run(self, count: int) -> None:
        """Start so many jobs, each as soon as a slot is free."""
        for number in range(count):
            if len(self._ends) == self._slots:
                self.end_one()
            tenant = heapq.heappop(self.shares.turns(self.jobs)).tenant
            self.shares.lent(tenant)
            self.started.append(tenant)
            seconds = self.jobs[tenant] * self._chance.uniform(0.5, 1.5)
            heapq.heappush(self._ends, (self.now + seconds, number, tenant, seconds))

    def end_one(self) -> None:
        self.now, _, tenant, seconds = heapq.heappop(self._ends)
        self.shares.lent(tenant, -1)
        self.shares.took(tenant, seconds)
        self.had[tenant] += seconds


@pytest.mark.parametrize("slots", [1, 4, 42])
@pytest.mark.parametrize("jobs", [{"heavy": 1.0, "light": 1.0}, {"heavy": 10.0, "light": 1.0}, {"heavy": 1.0, "light": 10.0}])
def test_weights_of_three_to_one_are_shares_of_time_whatever_the_length_of_the_jobs(slots: int, jobs: dict[str, float]) -> None:
    workers = Workers(slots, jobs, {"heavy": 3.0})
    workers.run(10_000)
    assert workers.had["heavy"] / workers.had["light"] == pytest.approx(3.0, rel=0.05)


def test_a_changed_weight_acts_at_the_next_claims_and_nothing_is_owed_for_before() -> None:
    workers = Workers(4, {"a": 1.0, "b": 1.0}, {})
    workers.run(2000)
    assert workers.had["a"] / workers.had["b"] == pytest.approx(1.0, rel=0.05)
    before = workers.had.copy()
    workers.weights["a"] = 3.0
    workers.run(40)
    assert Counter(workers.started[-40:])["a"] / 40 == pytest.approx(0.75, abs=0.1)
    workers.run(4000)
    since = workers.had - before
    assert since["a"] / since["b"] == pytest.approx(3.0, rel=0.05)


def test_who_comes_late_is_next_and_has_no_claim_on_what_was_before() -> None:
    workers = Workers(4, {"a": 1.0}, {})
    workers.run(1000)
    workers.jobs["b"] = 1.0
    workers.shares.arrive("b")
    workers.run(100)
    assert workers.started[1000] == "b"
    assert Counter(workers.started[-100:])["b"] == pytest.approx(50, abs=5)


def test_who_is_alone_has_everything_and_pays_nothing_for_it_when_another_comes() -> None:
    workers = Workers(2, {"a": 1.0}, {"a": 0.1})
    workers.run(1000)
    assert set(workers.started) == {"a"}
    workers.jobs["b"] = 1.0
    workers.shares.arrive("b")
    workers.run(1100)
    assert Counter(workers.started[-1100:])["a"] == pytest.approx(100, rel=0.1)


def test_a_thousand_tenants_have_equal_shares_of_time() -> None:
    shares, had = Shares({}), dict.fromkeys((f"t{number}" for number in range(1000)), 0.0)
    for _ in range(400):
        claim = Counter(allotted(shares.turns(had), 100))
        for tenant, count in claim.items():
            shares.lent(tenant, count)
        for tenant, count in claim.items():
            seconds = 1.0 + int(tenant[1:]) % 7
            for _ in range(count):
                shares.lent(tenant, -1)
                shares.took(tenant, seconds)
                had[tenant] += seconds
    assert sum(had.values()) ** 2 / (len(had) * sum(one**2 for one in had.values())) > 0.95, "Jain's index"


def test_a_claim_of_many_is_dealt_out_as_one_by_one() -> None:
    shares = Shares({"a": 3.0})
    assert Counter(allotted(shares.turns(["a", "b", "c"]), 100)) == {"a": 60, "b": 20, "c": 20}
    assert allotted(shares.turns(["a"]), 3) == ["a", "a", "a"]
    assert allotted(shares.turns([]), 3) == []


def test_those_that_have_nothing_are_forgotten() -> None:
    shares = Shares({})
    for number in range(30_000):
        shares.arrive(f"t{number}")
        shares.lent(f"t{number}")
        shares.lent(f"t{number}", -1)
        shares.took(f"t{number}", 1.0)
    assert len(shares._accounts) <= 10_000  # pyright: ignore[reportPrivateUsage]
