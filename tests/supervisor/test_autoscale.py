"""As many processes as keep messages from waiting longer than they may: single decisions, and whole hours of real arrivals."""

from __future__ import annotations

import bisect
import collections
import csv
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from chappe.supervisor.autoscale import KEPT, Autoscale, Load, slots_for

DATA = Path("/work/shared/data/load")
# Arrivals in each second of a small day of ours: quiet, a burst, steady, and quiet again.
SAMPLE = [0] * 60 + [400] + [0] * 60 + [8] * 300 + [0] * 200


@pytest.mark.parametrize(
    ("load", "max_wait", "slots"),
    [
        (Load(), 10.0, 0),
        (Load(arrivals=5.0, seconds=2.0), 10.0, 10),
        (Load(ready=100, seconds=2.0), 10.0, 20),
        (Load(ready=100, seconds=2.0), 100.0, 2),
        (Load(arrivals=5.0, ready=100, seconds=2.0), 10.0, 30),
        (Load(ready=1), 10.0, 1),  # nothing is known yet of how long one runs
        (Load(arrivals=1.0, seconds=0.001), 10.0, 1),
    ],
)
def test_slots_for_what_arrives_and_for_what_waits(load: Load, max_wait: float, slots: int) -> None:
    assert slots_for(load, max_wait) == slots


def decide(scale: Autoscale, now: float, wanted: int, count: int, bounds: tuple[int, int] = (1, 40), *, is_governed: bool = False) -> int:
    """Decide for a load that wants so many processes of one slot."""
    load = Load(ready=wanted, seconds=1.0)
    return scale.decide(now, load, count, slots=1, max_wait=1.0, bounds=bounds, is_governed=is_governed).count


def test_it_grows_at_once_and_shrinks_to_the_most_that_was_wanted_within_a_minute() -> None:
    scale = Autoscale()
    assert decide(scale, 0.0, 20, 1) == 20
    assert decide(scale, 1.0, 30, 20) == 30
    assert decide(scale, 30.0, 10, 30) == 30
    assert decide(scale, 62.0, 5, 30) == 10, "30 was wanted for the last time a minute ago"
    assert decide(scale, 95.0, 5, 10) == 5


def test_a_difference_of_less_than_a_tenth_changes_nothing() -> None:
    assert decide(Autoscale(), 0.0, 21, 20) == 20
    assert decide(Autoscale(), 0.0, 22, 20) == 22
    assert decide(Autoscale(), 0.0, 2, 1) == 2


def test_the_bounds_hold_whatever_is_wanted() -> None:
    assert decide(Autoscale(), 0.0, 100, 1) == 40
    scale = Autoscale()
    assert decide(scale, 0.0, 0, 1, (0, 40)) == 1, "nobody knows what was wanted before"
    assert decide(scale, KEPT + 1, 0, 1, (0, 40)) == 0
    assert decide(Autoscale(), 0.0, 5, 50) == 40, "an operator lowered the bounds"


def test_it_does_not_grow_while_the_governor_is_what_limits() -> None:
    assert decide(Autoscale(), 0.0, 20, 5, is_governed=True) == 5


class Outcome(NamedTuple):
    """What a simulated hour came to, in seconds but for `changes`."""

    longest: float
    provided: float
    worked: float
    changes: int


def simulate(arrivals: Sequence[int], seconds: float, *, slots: int, max_wait: float, bounds: tuple[int, int]) -> Outcome:
    """Run messages of equal length through a pool that is decided about each second, and has what it was told a second later."""
    scale, waiting, running = Autoscale(), collections.deque[float](), list[float]()
    count, coming = bounds[0], bounds[0]
    rate = longest = provided = changes = 0.0
    for second, new in enumerate([*arrivals, *[0] * 600]):
        now = float(second)
        waiting.extend([now] * new)
        running = [end for end in running if end > now]
        while waiting and len(running) < count * slots:
            longest = max(longest, now - waiting.popleft())
            running.append(now + seconds)
        provided += count
        rate += 0.2 * (new - rate)
        oldest = now - waiting[0] if waiting else None
        load = Load(rate, len(waiting), seconds, oldest)
        count = coming
        coming = scale.decide(now, load, count, slots=slots, max_wait=max_wait, bounds=bounds).count
        changes += coming != count
    return Outcome(float("inf") if waiting else longest, provided, sum(arrivals) * seconds / slots, int(changes))


def test_a_burst_is_over_in_time_and_the_processes_go_afterwards() -> None:
    done = simulate(SAMPLE, 2.0, slots=4, max_wait=10.0, bounds=(1, 60))
    assert done.longest <= 15.0
    assert done.provided < 0.35 * 60 * len(SAMPLE), "sixty all the time would be as fast"
    assert done.changes < 20


def per_second(file: Path) -> list[int]:
    """Return how many arrived in each second of a recording."""
    with file.open() as lines:
        times = [datetime.datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in csv.DictReader(lines)]
    counts = collections.Counter(int(at - times[0]) for at in times)
    return [counts[second] for second in range(max(counts) + 1)]


@pytest.mark.parametrize(("seconds", "max_wait"), [(0.5, 10.0), (2.0, 10.0), (10.0, 60.0)])
def test_an_hour_of_real_arrivals_waits_hardly_longer_than_it_may_with_less_than_a_fixed_pool_needs(
    seconds: float, max_wait: float
) -> None:
    file = DATA / "azure_llm_arrivals_code_2023.csv"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    arrivals = per_second(file)
    scaled = simulate(arrivals, seconds, slots=4, max_wait=max_wait, bounds=(1, 200))
    assert scaled.longest <= 1.5 * max_wait
    fixed = bisect.bisect_left(
        range(201), True, lo=1,
        key=lambda n: simulate(arrivals, seconds, slots=4, max_wait=max_wait, bounds=(n, n)).longest <= scaled.longest,
    )  # fmt: skip
    assert scaled.provided < fixed * (len(arrivals) + 600)


@pytest.mark.parametrize("name", ["Twitter_volume_AMZN.csv", "Twitter_volume_GOOG.csv"])
def test_days_of_real_counts_are_followed_without_flapping(name: str) -> None:
    file = DATA / "nab" / name
    if not file.exists():
        pytest.skip(f"{file} is not here")
    with file.open() as lines:
        counts = [int(float(row["value"])) for row in csv.DictReader(lines)][:288]
    arrivals = [count // 20 + (second < count % 20) for count in counts for second in range(20)]  # five minutes in 20 s
    done = simulate(arrivals, 1.0, slots=2, max_wait=5.0, bounds=(1, 100))
    assert done.longest <= 10.0
    assert done.changes < len(counts)
