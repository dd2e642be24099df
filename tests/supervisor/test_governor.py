"""The governor gives way to others on the host at once, comes back when they are gone, and shares what there is (row M2)."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from chappe.supervisor.governor import TICK, Governor, Reading, Ruling, filled, shares

DATA = Path("/work/shared/data/load")
SLOTS = 70


class Machine:
    """Four processors on which each slot in use takes a fixed part, beside an application; all that is ready always suffices."""

    def __init__(self, *, has_probe: bool = False, cost: float = 4.0) -> None:
        self.governor = Governor(80.0, 1.3)
        self.now = 0.0
        self.limit = SLOTS
        self.has_probe = has_probe
        self.cost = cost  # percent of all processors that a slot in use takes

    def load(self, foreground: float) -> float:
        """Return percent of all processors."""
        return min(100.0, foreground + self.limit * self.cost)

    def tick(self, foreground: float, *, busy: int | None = None) -> Ruling:
        """Let half a second pass with so much of the application's own load."""
        load = self.load(foreground)
        probe = 0.010 * (1.0 + max(0.0, foreground + self.limit * self.cost - 70.0) / 20.0) if self.has_probe else None
        ruling = self.governor.rule(self.now, Reading(load, 0.0, probe), busy=self.limit if busy is None else busy, slots=SLOTS, least=1)
        self.limit, self.now = ruling.limit, self.now + TICK
        return ruling

    def run(self, seconds: float, foreground: Callable[[float], float]) -> list[tuple[float, int, float]]:
        """Return time, slots and load of each tick."""
        seen: list[tuple[float, int, float]] = []
        end = self.now + seconds
        while self.now < end:
            ruling = self.tick(foreground(self.now))
            seen.append((self.now, ruling.limit, self.load(foreground(self.now))))
        return seen


def windows(seen: list[tuple[float, int, float]], seconds: float = 10.0) -> list[float]:
    """Return the mean load of each window."""
    size = int(seconds / TICK)
    loads = [load for *_, load in seen]
    return [sum(loads[at : at + size]) / size for at in range(0, len(loads) - size + 1, size)]


@pytest.mark.parametrize("has_probe", [False, True])
def test_w12_the_processors_stay_below_the_ceiling_in_nearly_all_windows(has_probe: bool) -> None:
    machine = Machine(has_probe=has_probe)
    found = windows(machine.run(600.0, lambda _: 20.0))
    assert sum(load <= 80.0 for load in found) >= 0.95 * len(found)
    assert sum(found) / len(found) > 0.6 * 80.0, "and most of what is allowed is used"


@pytest.mark.parametrize("has_probe", [False, True])
def test_w12_a_burst_of_others_cuts_within_two_seconds_and_the_slots_come_back_within_thirty(has_probe: bool) -> None:
    machine = Machine(has_probe=has_probe, cost=0.8)  # what runs waits most of the time
    machine.run(60.0, lambda _: 10.0)
    assert machine.limit == SLOTS
    burst = machine.run(10.0, lambda _: 70.0)
    assert min(limit for at, limit, _ in burst if at <= burst[0][0] + 2.0) <= 0.7 * SLOTS
    after = machine.run(30.0, lambda _: 10.0)
    assert after[-1][1] >= 0.9 * SLOTS


def test_what_has_become_slower_for_good_is_its_new_quiet_value_as_soon_as_nothing_of_ours_can_be_the_cause() -> None:
    governor, limit, seen = Governor(80.0, 1.3), SLOTS, list[Ruling]()
    for at in range(240):
        probe = 0.010 if at < 60 else 0.020  # a page has more on it
        seen.append(governor.rule(at * TICK, Reading(20.0, 0.0, probe), busy=limit, slots=SLOTS, least=1))
        limit = seen[-1].limit
    assert min(one.limit for one in seen[60:]) == 1
    assert seen[-1].limit >= 0.9 * SLOTS
    assert seen[-1].slow == 1.0


def test_what_is_slow_while_something_of_ours_runs_is_not_its_quiet_value() -> None:
    governor = Governor(80.0, 1.3)
    seen = [governor.rule(at * TICK, Reading(20.0, 0.0, 0.010 if at < 60 else 0.020), busy=10, slots=SLOTS, least=1) for at in range(240)]
    assert (seen[-1].limit, seen[-1].slow) == (1, 2.0)


def test_one_answer_that_was_fast_by_luck_is_not_the_quiet_value() -> None:
    governor = Governor(80.0, 1.3)
    for at in range(60):
        found = governor.rule(at * TICK, Reading(20.0, 0.0, 0.005 if at == 30 else 0.010), busy=10, slots=SLOTS, least=1)
        assert found.slow is not None
        assert found.slow < 1.1
    assert not found.why


def test_a_host_that_was_busy_at_its_start_is_not_held_for_a_quiet_one() -> None:
    governor = Governor(80.0, 1.3)
    seen = [governor.rule(at * TICK, Reading(20.0, 0.0, 0.100 if at < 4 else 0.010), busy=10, slots=SLOTS, least=1) for at in range(20)]
    assert seen[-1].slow is not None
    assert seen[-1].slow > 0.75


def test_a_pool_without_work_does_not_keep_another_from_growing() -> None:
    """Each pool keeps a slot, and of five only one has work."""
    governor, limit = Governor(80.0, 1.3), 100
    for at in range(240):
        busy = max(1, limit - 4)
        limit = governor.rule(at * TICK, Reading(100.0 if 100 <= at < 140 else 20.0), busy=busy, slots=SLOTS, least=5).limit
        if at == 139:
            assert limit == 5
    assert limit >= 0.9 * SLOTS


def test_it_begins_with_few_slots_so_that_a_quiet_host_is_seen_first() -> None:
    assert Machine().tick(0.0).limit <= 0.2 * SLOTS


def test_w12_beside_a_load_that_swings_by_chance_most_of_what_is_allowed_is_used() -> None:
    chance, machine = random.Random(1), Machine()
    found = windows(machine.run(600.0, lambda _: min(100.0, max(0.0, chance.gauss(20.0, 10.0)))))
    assert sum(load <= 80.0 for load in found) >= 0.95 * len(found)
    assert sum(found) / len(found) >= 0.88 * 80.0


def test_nothing_grows_while_less_than_half_is_used() -> None:
    machine = Machine(cost=0.0)
    before = machine.tick(0.0).limit
    for _ in range(20):
        assert machine.tick(0.0, busy=1).limit == before


def test_one_reading_above_the_ceiling_is_no_reason_yet() -> None:
    governor = Governor(80.0, 1.3)
    before = governor.rule(0.0, Reading(50.0), busy=10, slots=SLOTS, least=1).limit
    assert governor.rule(0.5, Reading(99.0), busy=10, slots=SLOTS, least=1).limit == before
    found = governor.rule(1.0, Reading(99.0), busy=10, slots=SLOTS, least=1)
    assert found.limit < before
    assert found.why == "99 % of the processors is above 80 %"


def test_who_waits_for_a_processor_counts_only_where_no_probe_knows_better() -> None:
    for probe, why in ((None, "somebody waits for a processor 90% of the time"), (0.01, "no more: the processors are busy")):
        governor = Governor(80.0, 1.3)
        for now in range(3):
            found = governor.rule(float(now), Reading(50.0, 0.9, probe), busy=10, slots=SLOTS, least=1)
            assert found.why == why


def test_a_slow_probe_is_named_with_how_slow_it_is() -> None:
    governor = Governor(80.0, 1.3)
    before = governor.rule(0.0, Reading(10.0, 0.0, 0.010), busy=10, slots=SLOTS, least=1).limit
    found = governor.rule(0.5, Reading(10.0, 0.0, 0.020), busy=10, slots=SLOTS, least=1)
    assert (found.limit, found.why) == (before, "no more: the probe is slow"), "one reading is no reason yet"
    found = governor.rule(1.0, Reading(10.0, 0.0, 0.020), busy=10, slots=SLOTS, least=1)
    assert (found.why, found.slow) == ("the probe takes 2.0 times its quiet time", 2.0)


def test_how_slow_the_probe_may_be_is_said() -> None:
    governor = Governor(80.0, 2.5)
    found = [governor.rule(at * TICK, Reading(10.0, 0.0, 0.024 if at else 0.010), busy=10, slots=SLOTS, least=1) for at in range(10)]
    assert [(one.why, one.slow) for one in found[1:]] == [("", 2.4)] * 9


def test_each_pool_keeps_a_slot_however_busy_others_are() -> None:
    governor = Governor(80.0, 1.3)
    limits = [governor.rule(at / 2, Reading(100.0), busy=SLOTS, slots=SLOTS, least=3).limit for at in range(60)]
    assert min(limits) == limits[-1] == 3


@pytest.mark.parametrize(
    ("limit", "slots", "found"), [(9, [4, 4], [4, 4]), (5, [4, 4], [4, 1]), (3, [4, 4], [3, 0]), (0, [4], [0]), (3, [], [])]
)
def test_the_slots_of_a_pool_are_those_of_few_processes(limit: int, slots: list[int], found: list[int]) -> None:
    assert filled(limit, slots) == found


@pytest.mark.parametrize(
    ("limit", "slots", "found"),
    [(10, [4, 4], [4, 4]), (8, [4, 4], [4, 4]), (4, [4, 4], [2, 2]), (3, [1] * 5, [1, 1, 1, 0, 0]), (5, [8, 2], [4, 1]), (0, [3, 3], [0, 0]),
     (7, [10, 1], [6, 1]), (1, [1, 1], [1, 0])],
)  # fmt: skip
def test_shares_are_whole_in_proportion_and_never_more_than_there_is(limit: int, slots: list[int], found: list[int]) -> None:
    assert shares(limit, slots) == found
    assert sum(found) == min(limit, sum(slots))


def test_beside_a_real_day_of_an_application_the_processors_stay_below_the_ceiling() -> None:
    file = DATA / "nab" / "Twitter_volume_AMZN.csv"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    with file.open() as lines:
        counts = [float(row["value"]) for row in csv.DictReader(lines)][:288]
    most = sorted(counts)[-5]
    machine = Machine(cost=1.5)
    found = windows(machine.run(2880.0, lambda now: min(70.0, 70.0 * counts[int(now / 10.0) % len(counts)] / most)))
    assert sum(load <= 80.0 for load in found) >= 0.93 * len(found)
    assert sum(found) / len(found) > 0.55 * 80.0
