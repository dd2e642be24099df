"""Chooses by a seed who is killed or frozen next, and does it through a descriptor of the process, never by a bare number."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import psutil

from tests.faults.storm.ledger import Strike

WORKER, ENGINE, GATEWAY, SUPERVISOR, SCHEDULER, PUBLISHER = "worker", "engine", "gateway", "supervisor", "scheduler", "publisher"
MIX: Mapping[str, float] = {WORKER: 0.7, ENGINE: 0.1, GATEWAY: 0.05, PUBLISHER: 0.05, SUPERVISOR: 0.05, SCHEDULER: 0.05}
RIPE: Mapping[str, float] = {WORKER: 0.5, ENGINE: 3.0, GATEWAY: 3.0, PUBLISHER: 1.5, SUPERVISOR: 6.0, SCHEDULER: 2.0}
"""Seconds that a process of a role works before most strikes may hit it: were all hit while they start, nothing would ever run."""
UNRIPE = 1 / 8
TURNS = 10  # turns that a step waits for its victim
FREEZES = 1 / 8
SHORTEST, LONGEST = 0.3, 2.0
ENDS = 1 / 3  # of those that are frozen, how many are killed instead of let go on


class Plan(NamedTuple):
    """One step: `pick` chooses among the processes of the role of at least some `age`, `freeze` is the seconds or zero for a kill at once.

    `ends` says that a frozen process is killed in the end.
    """

    role: str
    pick: float
    freeze: float
    age: float
    ends: bool = False


def schedule(seed: int, mix: Mapping[str, float] = MIX, freezes: float = FREEZES, ends: float = ENDS) -> Iterator[Plan]:
    """Return the steps of a seed, without an end."""
    chance = random.Random(seed)
    roles, weights = list(mix), list(mix.values())
    while True:
        (role,) = chance.choices(roles, weights)
        pick, frozen, seconds = chance.random(), chance.random() < freezes, chance.uniform(SHORTEST, LONGEST)
        age = 0.0 if chance.random() < UNRIPE else RIPE[role]
        yield Plan(role, pick, seconds if frozen else 0.0, age, chance.random() < ends)


class Killer:
    """Strikes processes that `find` names with the seconds that they work, each known to be one of ours by `is_ours`."""

    def __init__(
        self, plans: Iterator[Plan], find: Callable[[str], Mapping[int, float]], is_ours: Callable[[psutil.Process], bool]
    ) -> None:
        self._plans = plans
        self._find = find
        self._is_ours = is_ours
        self._frozen: dict[int, tuple[int, int, bool]] = {}  # the index of the strike, the descriptor, whether it is to end
        self.strikes: list[Strike] = []
        self.missed = 0
        self._waiting: Plan | None = None
        self._waited = 0

    @property
    def kills(self) -> int:
        """How many processes were killed so far."""
        return sum(1 for strike in self.strikes if strike.is_kill)

    def strike(self) -> None:
        """Do the next step; it waits some turns for somebody of its role to be ripe, and is missed after that."""
        plan = self._waiting or next(self._plans)
        living = [pid for pid, age in self._find(plan.role).items() if pid not in self._frozen and age >= plan.age]
        if living and self._hit(plan, living[int(plan.pick * len(living))]):
            self._waiting, self._waited = None, 0
            return
        self._waited += 1
        self._waiting = plan if self._waited < TURNS else None
        if self._waiting is None:
            self.missed += 1
            self._waited = 0

    def _hit(self, plan: Plan, pid: int) -> bool:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if not self._is_ours(psutil.Process(pid)):
                return False
            now = time.monotonic()
            signal.pidfd_send_signal(handle, signal.SIGSTOP if plan.freeze else signal.SIGKILL)
        except (OSError, psutil.Error):
            os.close(handle)
            return False
        if plan.freeze:
            self._frozen[pid] = (len(self.strikes), handle, plan.ends)
            self.strikes.append(Strike(now, plan.role, pid, now + plan.freeze))
        else:
            os.close(handle)
            self.strikes.append(Strike(now, plan.role, pid))
        return True

    def thaw(self, *, everybody: bool = False) -> None:
        """Let go on, or end, who was frozen long enough."""
        now = time.monotonic()
        for pid, (index, handle, ends) in list(self._frozen.items()):
            strike = self.strikes[index]
            if everybody or strike.until <= now:
                self.strikes[index] = strike._replace(until=now)
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL if ends else signal.SIGCONT)
                    if ends:
                        self.strikes.append(Strike(now, strike.role, pid))
                os.close(handle)
                del self._frozen[pid]
