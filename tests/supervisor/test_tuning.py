"""What workers tell and queues show becomes a number of processes, and what the governor rules becomes slots of each worker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chappe.beats import Beat, Clocked
from chappe.engines.contract.fleet import QueueStatus
from chappe.settings import Governor, Pool, Settings
from chappe.supervisor import tuning
from chappe.supervisor.child import Child
from chappe.supervisor.governor import Reading, Ruling
from chappe.supervisor.plan import Pools, plan
from chappe.supervisor.tuning import Tuning

from ..waiting import auntil


class Worker:
    """A worker that remembers what it was told."""

    def __init__(self, spec: Any) -> None:
        self.spec, self.pid, self.started_at = spec, 1, 0.0
        self.beat, self.slots_told, self.ready = Beat(), cast("int | None", None), asyncio.Event()
        self.ready.set()
        self.told: list[str] = []
        self.tell = self.told.append


class Host:
    """The processes of pools that no system has."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.pools, self.workers = settings, Pools(), list[Worker]()
        self.now = 0.0

    @property
    def running(self) -> list[Child]:
        return cast("list[Child]", self.workers)

    async def fit(self) -> None:
        specs = plan(self.settings, self.pools.counts(self.settings), gateway=False, scheduler=False)
        known = {worker.spec.name: worker for worker in self.workers}
        self.workers = [known.get(spec.name) or Worker(spec) for spec in specs]


def queue(name: str, ready: int = 0, *, paused: bool = False) -> QueueStatus:
    return QueueStatus(name, (), "", ready, 0, 0, 0, 1, paused=paused, oldest=1.0 if ready else None)


def ran(queue: str, seconds: float, times: int) -> Beat:
    clocked = Clocked()
    for _ in range(times):
        clocked.add(queue, None, seconds)
    return Beat(times=clocked.take())


async def test_a_pool_has_processes_for_its_own_queues_by_their_measured_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = {
        "imports": Pool(queues=("import.*",), exclude=("import.slow",), processes="1..50", concurrency=2, max_wait=10.0),
        "rest": Pool(queues=("rest",), processes=1),
    }
    host = Host(Settings(pools=pools))
    await host.fit()
    tuned = Tuning(host)
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr("chappe.supervisor.tuning.time", SimpleNamespace(monotonic=lambda: next(clock)))
    await tuned.scale([queue("import.a"), queue("rest")])
    tuned.hear(host.running[0], ran("import.a", 2.0, 5))
    await tuned.scale([queue("import.a", 100), queue("import.b", 100, paused=True), queue("import.slow", 900), queue("rest", 900)])
    load, decision = tuned.decisions["imports"]
    assert (load.ready, load.seconds, load.arrivals, load.oldest) == (100, 2.0, 21.0, 1.0)
    assert decision.count == 31, "21 a second for 2 s, and 100 of 2 s in 10 s, two at a time"
    assert [worker.spec.pool for worker in host.workers].count("imports") == 31
    assert [worker.spec.pool for worker in host.workers].count("rest") == 1
    assert tuned.times["import.a"].ran.count == 5


async def test_each_worker_is_told_its_share_once_and_again_when_it_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = {"a": Pool(processes=2, concurrency=10), "b": Pool(processes=1, concurrency=20)}
    host = Host(Settings(pools=pools, governor=Governor(cpu=80.0, slow=1.6)))
    await host.fit()
    tuned = Tuning(host)
    limits = [26]

    class Ruled:
        def __init__(self, cpu: float, slow: float) -> None:
            assert (cpu, slow) == (80.0, 1.6)

        def rule(self, _: float, __: Reading, *, busy: int, slots: int, least: int) -> Ruling:
            assert (busy, slots, least) == (0, 40, 2)
            return Ruling(limits[-1], "because")

    monkeypatch.setattr(tuning, "Governor", Ruled)
    monkeypatch.setattr("chappe.supervisor.governor.TICK", 0.001)
    task = asyncio.create_task(tuned.govern())
    await auntil(lambda: all(worker.told for worker in host.workers[1:]), "all to be told")
    assert [worker.told for worker in host.workers] == [[], ["slots 3"], ["slots 13"]]
    limits.append(40)
    await auntil(lambda: all(len(worker.told) > 1 for worker in host.workers[1:]), "all to be told again")
    assert [worker.told for worker in host.workers] == [[], ["slots 3", "slots 10"], ["slots 13", "slots 20"]]
    seen = tuned.seen()
    assert seen is not None
    assert (seen["limit"], seen["slots"], seen["why"]) == (40, 40, "because")
    task.cancel()


async def test_without_a_governor_nobody_is_told_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(Settings(pools={"a": Pool(processes=1)}))
    await host.fit()
    monkeypatch.setattr("chappe.supervisor.governor.TICK", 0.0)
    task = asyncio.create_task(Tuning(host).govern())
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    assert host.workers[0].told == []
