"""Fits pools to their load and slots to what the host can bear: feeds the two deciders, and does what they say."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from chappe.beats import Beat, Times
from chappe.engines.contract.fleet import QueueStatus
from chappe.messages.topology import match
from chappe.settings import Settings
from chappe.supervisor import governor
from chappe.supervisor.autoscale import Autoscale, Decision, Load
from chappe.supervisor.child import Child
from chappe.supervisor.governor import Governor, Reading, Ruling, filled, shares
from chappe.supervisor.plan import Pools
from chappe.supervisor.pressure import Pressure, Probe

log = logging.getLogger("chappe.supervisor")

_SMOOTH: Final = 0.2  # of a new value in a moving average


class Tuned(Protocol):
    """What keeps the processes of this host."""

    pools: Pools

    @property
    def settings(self) -> Settings: ...

    @property
    def running(self) -> Sequence[Child]: ...

    async def fit(self) -> None: ...


class _Measured:
    """What is known of the work of one pool."""

    def __init__(self) -> None:
        self.ended = 0  # attempts since the last look
        self.ran = 0.0  # their seconds
        self.seconds = 0.0  # that one runs, on average
        self.arrivals = 0.0
        self.rate = 0.0  # ended in a second
        self.ready: int | None = None
        self.looked_at = 0.0

    def look(self, now: float, ready: int) -> None:
        """Take the measures of the time since the last look: what arrived is what ended and what more there is."""
        passed = now - self.looked_at
        if self.ended:
            mean = self.ran / self.ended
            self.seconds = mean if not self.seconds else self.seconds + _SMOOTH * (mean - self.seconds)
        if self.ready is not None and passed > 0:
            arrived = max(0.0, (self.ended + ready - self.ready) / passed)
            self.arrivals += _SMOOTH * (arrived - self.arrivals)
            self.rate += _SMOOTH * (self.ended / passed - self.rate)
        self.ended, self.ran, self.ready, self.looked_at = 0, 0.0, ready, now


class Tuning:
    """Autoscale of each pool, and the governor of the host."""

    def __init__(self, host: Tuned) -> None:
        self._host = host
        self._measured: dict[str, _Measured] = collections.defaultdict(_Measured)
        self._scales: dict[str, Autoscale] = collections.defaultdict(Autoscale)
        self.times: dict[str, Times] = {}  # of each queue, since this supervisor started
        self.decisions: dict[str, tuple[Load, Decision]] = {}
        self.reading: Reading | None = None
        self.ruling: Ruling | None = None
        self._pressure = Pressure()

    def hear(self, child: Child, beat: Beat) -> None:
        """Count what a worker tells."""
        measured = self._measured[child.spec.pool or ""]
        for times in beat.times:
            measured.ended += times.ran.count
            measured.ran += times.ran.total
            kept = self.times.setdefault(times.queue, times)
            if kept is not times:
                kept.include(times)

    # --- autoscale

    async def scale(self, queues: Sequence[QueueStatus]) -> None:
        """Decide for each pool by the queues of an overview, and have it fit."""
        host, now = self._host, time.monotonic()
        counts = host.pools.counts(host.settings)
        changed = False
        for name, pool in host.settings.pools.items():
            names = [queue.name for queue in queues if not queue.temporary]
            served = set(match(pool.queues, names)) - set(match(pool.exclude, names))
            mine = [queue for queue in queues if queue.name in served and not queue.paused]
            measured = self._measured[name]
            measured.look(now, sum(queue.ready for queue in mine))
            oldest = max((queue.oldest for queue in mine if queue.oldest is not None), default=None)
            load = Load(round(measured.arrivals, 3), measured.ready or 0, round(measured.seconds, 4), oldest)
            bounds = host.pools.bounds(host.settings, name)
            decision = self._scales[name].decide(
                now, load, counts[name], slots=pool.concurrency, max_wait=pool.max_wait, bounds=bounds, is_governed=self._limits()
            )
            self.decisions[name] = (load, decision)
            if decision.count != counts[name]:
                log.info(
                    "pool %s: %d processes in place of %d, %s (%.3g arrivals/s, %d ready, %.3g s each, at most %g s to wait)",
                    name, decision.count, counts[name], decision.why, load.arrivals, load.ready, load.seconds, pool.max_wait,
                )  # fmt: skip
                host.pools.choose(name, decision.count)
                changed = True
        if changed:
            await host.fit()

    def rate(self, pool: str) -> float:
        """Return how many attempts of a pool end in a second."""
        return self._measured[pool].rate

    def _limits(self) -> bool:
        slots = sum(child.spec.slots for child in self._workers())
        return self.ruling is not None and self.ruling.limit < slots

    # --- the governor

    async def govern(self) -> None:
        """Give each worker its share of the slots that the host can bear, twice a second, where the settings ask for it."""
        deciding: Governor | None = None
        probe: Probe | None = None
        asked = None
        try:
            while True:
                await asyncio.sleep(governor.TICK)
                if self._host.settings.governor != asked:
                    asked = self._host.settings.governor
                    deciding = None if asked is None else Governor(asked.cpu, asked.slow)
                    if probe is not None:
                        probe.close()
                    probe = None if asked is None or asked.probe is None else Probe(asked.probe)
                    self.ruling = None
                self.reading = self._pressure.read(probe)
                if deciding is not None:
                    self._rule(deciding, self.reading)
                self._share()
        finally:
            if probe is not None:
                probe.close()

    def _rule(self, deciding: Governor, reading: Reading) -> None:
        workers = self._workers()
        slots, busy = sum(child.spec.slots for child in workers), sum(child.beat.busy for child in workers)
        before = self.ruling
        self.ruling = deciding.rule(time.monotonic(), reading, busy=busy, slots=slots, least=len({c.spec.pool for c in workers}))
        if before is not None and self.ruling.limit < before.limit:
            log.info("%d of %d slots in place of %d: %s", self.ruling.limit, slots, before.limit, self.ruling.why)

    def _share(self) -> None:
        """Tell each worker how many of its slots it may use, if that is new to it.

        Each pool has a share by its slots, and fills its processes in turn, those that have run longest first.
        """
        workers = self._workers()
        pools: dict[str, list[Child]] = collections.defaultdict(list)
        for child in workers:
            pools[child.spec.pool or ""].append(child)
        slots = [sum(child.spec.slots for child in children) for children in pools.values()]
        limit = sum(slots) if self.ruling is None else self.ruling.limit
        spare = max(0, limit - len(pools))  # one for each pool first
        of_pools = [1 + share for share in shares(spare, [count - 1 for count in slots])] if limit >= len(pools) else shares(limit, slots)
        for children, share in zip(pools.values(), of_pools, strict=True):
            children.sort(key=lambda child: (not child.ready.is_set(), child.started_at))
            for child, allowed in zip(children, filled(share, [child.spec.slots for child in children]), strict=True):
                known = child.spec.slots if child.slots_told is None else child.slots_told
                if child.ready.is_set() and allowed != known:
                    child.slots_told = allowed
                    child.tell(f"slots {allowed}")

    def _workers(self) -> list[Child]:
        return [child for child in self._host.running if child.spec.slots and child.pid is not None]

    def seen(self) -> dict[str, Any] | None:
        """Return what is seen of the host, and what its governor says, for others to look at."""
        if self.reading is None:
            return None
        ruled = self.ruling and {"limit": self.ruling.limit, "slow": self.ruling.slow, "why": self.ruling.why}
        return (ruled or {}) | {
            "cpu": round(self.reading.cpu, 1), "cores": [round(core) for core in self._pressure.cores],
            "stalled": None if self.reading.stalled is None else round(self.reading.stalled, 3),
            "probe": None if self.reading.probe is None else round(self.reading.probe, 4),
            "slots": sum(child.spec.slots for child in self._workers()),
        }  # fmt: skip
