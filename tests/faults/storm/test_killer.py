"""The killer: its schedule is its seed's, and it strikes nobody but its victims."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from tests.faults.storm.killer import ENGINE, MIX, PUBLISHER, TURNS, WORKER, Killer, Plan, schedule
from tests.waiting import until

pytestmark = pytest.mark.proof


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_seed_gives_the_same_schedule_each_time_and_another_seed_another() -> None:
    first, again, other = (list(itertools.islice(schedule(seed), 200)) for seed in (7, 7, 8))
    assert first == again != other


def test_the_schedule_keeps_the_mix() -> None:
    count = Counter(plan.role for plan in itertools.islice(schedule(1), 20_000))
    for role, part in MIX.items():
        assert count[role] / 20_000 == pytest.approx(part, abs=0.02)
    frozen = sum(1 for plan in itertools.islice(schedule(1), 20_000) if plan.freeze)
    assert frozen / 20_000 == pytest.approx(1 / 8, abs=0.02)


def test_a_victim_is_killed_and_written_down(victim: subprocess.Popen[bytes]) -> None:
    killer = Killer(iter([Plan(WORKER, 0.5, 0.0, 1.0)]), lambda role: {victim.pid: 2.0} if role == WORKER else {}, lambda _: True)
    killer.strike()
    assert victim.wait(5) == -signal.SIGKILL
    assert [(strike.role, strike.pid, strike.is_kill) for strike in killer.strikes] == [(WORKER, victim.pid, True)]
    assert killer.kills == 1


def test_a_frozen_victim_is_not_struck_again_and_goes_on_after_its_time(victim: subprocess.Popen[bytes]) -> None:
    killer = Killer(iter([Plan(WORKER, 0.0, 0.2, 0.0), Plan(WORKER, 0.0, 0.0, 0.0)]), lambda _: {victim.pid: 2.0}, lambda _: True)
    killer.strike()
    until(lambda: psutil.Process(victim.pid).status() == psutil.STATUS_STOPPED)
    killer.strike()
    assert victim.poll() is None
    until(lambda: killer.thaw() is None and psutil.Process(victim.pid).status() != psutil.STATUS_STOPPED)
    (strike,) = killer.strikes
    assert 0.2 <= strike.until - strike.at < 5
    assert killer.kills == 0


def test_a_frozen_victim_may_end_by_a_kill(victim: subprocess.Popen[bytes]) -> None:
    killer = Killer(iter([Plan(ENGINE, 0.0, 0.1, 0.0, ends=True)]), lambda _: {victim.pid: 2.0}, lambda _: True)
    killer.strike()
    until(lambda: killer.thaw() is None and victim.poll() is not None)
    assert victim.returncode == -signal.SIGKILL
    assert [strike.is_kill for strike in killer.strikes] == [False, True]


def test_nobody_else_is_struck(victim: subprocess.Popen[bytes]) -> None:
    killer = Killer(iter([Plan(ENGINE, 0.0, 0.0, 0.0), Plan(PUBLISHER, 0.0, 0.0, 0.0)]), lambda _: {victim.pid: 9.0}, lambda _: False)
    for _ in range(2 * TURNS):
        killer.strike()
    assert victim.poll() is None
    assert (killer.strikes, killer.missed) == ([], 2)


def test_a_step_waits_some_turns_for_a_victim_that_is_old_enough(victim: subprocess.Popen[bytes]) -> None:
    age = [0.0]
    killer = Killer(iter([Plan(WORKER, 0.0, 0.0, 1.0)]), lambda _: {victim.pid: age[0]}, lambda _: True)
    for _ in range(TURNS - 1):
        killer.strike()
    assert victim.poll() is None
    age[0] = 1.0
    killer.strike()
    assert victim.wait(5) == -signal.SIGKILL
    assert killer.missed == 0
