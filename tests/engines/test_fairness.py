"""Shares of time between tenants, decided without an engine (row M8)."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chappe.engines.fairness import Shares


def waiting(weights: dict[str, float], *tenants: str) -> Shares:
    shares = Shares(weights)
    for tenant in tenants:
        shares.wait(tenant)
    return shares


class Workers:
    """A simulation: so many slots, and tenants of which each has more waiting than is ever done."""

    def __init__(self, slots: int, jobs: dict[str, float], weights: dict[str, float]) -> None:
        self.weights = weights
        self.shares = Shares(weights)
        self.jobs = jobs
        self.now = 0.0
        self.had = defaultdict[str, float](float)
        self.started: list[str] = []
        self._slots = slots
        self._ends: list[tuple[float, int, str, float]] = []
        self._chance = random.Random(1)
        for tenant in jobs:
            self.shares.wait(tenant)

    def run(self, count: int) -> None:
        """Start so many jobs, each as soon as a slot is free."""
        for number in range(count):
            if len(self._ends) == self._slots:
                self.end_one()
            self.shares.look()
            tenant = self.shares.next()
            assert tenant is not None, "a slot is free while a job waits"
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
    workers.shares.reweigh()
    workers.run(40)
    assert Counter(workers.started[-40:])["a"] / 40 == pytest.approx(0.75, abs=0.1)
    workers.run(4000)
    since = {tenant: workers.had[tenant] - before[tenant] for tenant in "ab"}
    assert since["a"] / since["b"] == pytest.approx(3.0, rel=0.05)


def test_who_comes_late_is_next_and_has_no_claim_on_what_was_before() -> None:
    workers = Workers(4, {"a": 1.0}, {})
    workers.run(1000)
    workers.jobs["b"] = 1.0
    workers.shares.wait("b")
    workers.run(100)
    assert workers.started[1000] == "b"
    assert Counter(workers.started[-100:])["b"] == pytest.approx(50, abs=5)


def test_who_is_alone_has_everything_and_pays_nothing_for_it_when_another_comes() -> None:
    workers = Workers(2, {"a": 1.0}, {"a": 0.1})
    workers.run(1000)
    assert set(workers.started) == {"a"}
    workers.jobs["b"] = 1.0
    workers.shares.wait("b")
    workers.run(1100)
    assert Counter(workers.started[-1100:])["a"] == pytest.approx(100, rel=0.1)


def test_a_thousand_tenants_have_equal_shares_of_time() -> None:
    had = dict.fromkeys((f"t{number}" for number in range(1000)), 0.0)
    shares = waiting({}, *had)
    for _ in range(400):
        claim = Counter(shares.allot(100))
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
    assert Counter(waiting({"a": 3.0}, "a", "b", "c").allot(100)) == {"a": 60, "b": 20, "c": 20}
    assert waiting({}, "a").allot(3) == ["a", "a", "a"]
    assert waiting({}).allot(3) == []


def test_what_was_dealt_out_and_not_lent_is_no_longer_counted_at_the_next_look() -> None:
    shares = waiting({}, "a", "b")
    assert shares.allot(1) == ["a"]
    assert shares.allot(1) == ["a"]
    shares.lent("a")
    assert shares.allot(1) == ["b"]


def test_only_short_messages_are_served_in_a_row_and_few_of_a_small_claim() -> None:
    shares = waiting({}, "new", "short", "tenth", "long")
    for _ in range(50):
        shares.took("short", 0.00001)
        shares.took("tenth", 0.0001)
    shares.took("long", 0.1)
    shares.look()
    assert [shares.in_a_row(tenant, 500) for tenant in ("short", "tenth", "long")] == [24, 10, 1]
    assert [shares.in_a_row("short", most) for most in (100, 50, 10, 1)] == [24, 13, 3, 1]
    assert waiting_row(Shares({})) == 1, "nobody knows how long they take"


def waiting_row(shares: Shares) -> int:
    shares.wait("a")
    shares.look()
    return shares.in_a_row("a", 500)


def test_a_turn_in_one_rank_is_none_in_another_and_ends_with_what_waits() -> None:
    shares = Shares({})
    shares.wait("a", -1)
    shares.wait("a", 0)
    shares.wait("b", 0)
    shares.look()
    shares.deal("a", -1)
    assert (shares.next(-1), shares.next(0), shares.next(7)) == ("a", "b", None)
    shares.rest("a", -1)
    shares.rest("b", 0)
    assert (shares.next(-1), shares.next(0)) == (None, "a")
    shares.restart()
    shares.look()
    assert shares.next(0) is None


def test_those_that_have_nothing_are_forgotten() -> None:
    shares = Shares({})
    for number in range(30_000):
        shares.wait(f"t{number}")
        shares.lent(f"t{number}")
        shares.lent(f"t{number}", -1)
        shares.took(f"t{number}", 1.0)
        shares.rest(f"t{number}")
    assert len(shares._accounts) <= 10_000  # pyright: ignore[reportPrivateUsage]


@given(
    st.integers(1, 8), st.sampled_from([0.1, 1.0, 10.0]), st.sampled_from([1.0, 3.0]), st.sampled_from([1.0, 3.0]), st.integers(1, 3),
)  # fmt: skip
def test_shares_of_time_follow_weights_whatever_the_slots_the_lengths_and_changed_weights(
    slots: int, length: float, before: float, after: float, others: int
) -> None:
    """Row W18: within 5 % of time, work-conserving (see `Workers.run`), and a changed weight acts on what waits."""
    jobs = {"a": length, **{f"o{number}": 1.0 for number in range(others)}}
    workers = Workers(slots, jobs, {"a": before})
    for weight in (before, after):
        workers.weights["a"] = weight
        workers.shares.reweigh()
        had = workers.had.copy()
        workers.run(100 * slots * (others + 1))
        since = {tenant: workers.had[tenant] - had[tenant] for tenant in jobs}
        fair = weight * sum(since.values()) / (weight + others)
        most = max(jobs.values()) * 1.5 * slots  # what may be running at the beginning and at the end
        assert abs(since["a"] - fair) <= 0.05 * fair + most


_step = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 4), st.integers(0, 1)),
    st.tuples(st.just("rest"), st.integers(0, 4), st.integers(0, 1)),
    st.tuples(st.just("lent"), st.integers(0, 4), st.just(1)),
    st.tuples(st.just("took"), st.integers(0, 4), st.integers(1, 9)),
    st.tuples(st.just("weigh"), st.integers(0, 4), st.integers(1, 9)),
    st.tuples(st.just("take"), st.integers(0, 1), st.integers(1, 20)),
)


@given(st.lists(_step, max_size=60))
def test_the_next_is_always_who_had_least_of_those_that_wait(steps: list[tuple[str, int, int]]) -> None:
    weights = dict[str, float]()
    shares = Shares(weights)
    waits = {0: set[str](), 1: set[str]()}
    for what, number, value in steps:
        tenant = f"t{number}"
        match what:
            case "wait":
                shares.wait(tenant, value)
                waits[value].add(tenant)
            case "rest":
                shares.rest(tenant, value)
                waits[value].discard(tenant)
            case "lent":
                shares.lent(tenant)
            case "took":
                shares.lent(tenant, -1)
                shares.took(tenant, float(value))
            case "weigh":
                weights[tenant] = float(value)
                shares.reweigh()
            case _:
                shares.look()
                for _ in range(value):
                    turns = {one: shares._accounts[one].turn for one in waits[number]}  # pyright: ignore[reportPrivateUsage]
                    assert shares.next(number) == min(turns, key=turns.__getitem__, default=None)
                    if turns:
                        shares.deal(min(turns, key=turns.__getitem__), number)


def test_those_who_had_the_same_but_for_a_moment_are_served_in_the_order_of_the_store() -> None:
    shares = Shares({})
    for place, tenant in enumerate("cab"):
        shares.wait(tenant, 0, place)
    for seconds, tenant in zip((0.00012, 0.00011, 0.0001), "cab", strict=True):
        shares.took(tenant, seconds)
    shares.look()
    order = ""
    for place in range(3, 12):
        assert (tenant := shares.next()) is not None
        shares.deal(tenant, place=place)
        order += tenant
    assert order == "cab" * 3
    shares.took("c", 0.001)
    assert shares.allot(1) == ["a"], "more than a moment counts"
