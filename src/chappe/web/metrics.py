"""What Prometheus scrapes: the queues as the engine sees them, and this gateway's own requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from chappe.beats import BOUNDS
from chappe.engines.contract.fleet import PROCESS_STATES, Overview, QueueStatus

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The registry of one gateway."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("chappe_http_requests", "Requests by route and status.", ("route", "status"), registry=self._registry)
        self.seconds = Histogram(
            "chappe_http_request_seconds", "Seconds from request to answer.", ("route",), registry=self._registry, buckets=_BUCKETS
        )

    def expose(self, overview: Overview) -> tuple[bytes, str]:
        """Return the text of all metrics and its content type."""
        scrape = CollectorRegistry()
        scrape.register(_Overview(overview))
        return exposition.generate_latest(scrape) + exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_LATEST


class _Overview(Collector):
    """Metrics made from the engine's overview at the moment of the scrape."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("chappe_queue_messages", "Messages of a queue in each state.", labels=("queue", "state"))
        total = CounterMetricFamily("chappe_messages", "Messages since the engine started, by what happened.", labels=("queue", "outcome"))
        consumers = GaugeMetricFamily("chappe_queue_consumers", "Connected workers that serve a queue.", labels=("queue",))
        for queue in self._overview.queues:
            if queue.temporary:
                continue  # each process gives its own a new name: the series would never end
            for state in ("ready", "running", "delayed", "dead"):
                depth.add_metric((queue.name, state), getattr(queue, state))
            for outcome in ("published", "done", "retried", "died"):
                if (count := getattr(queue, outcome)) is not None:
                    total.add_metric((queue.name, outcome), count)
            consumers.add_metric((queue.name,), queue.consumers)
        clients = GaugeMetricFamily("chappe_clients", "Connected processes by role.", labels=("role",))
        roles = [client.role for client in self._overview.clients]
        for role in sorted(set(roles)):
            clients.add_metric((role,), roles.count(role))
        yield from (depth, total, consumers, clients)
        yield from _ages(self._overview.queues)
        supervisors = self._overview.supervisors
        yield from _times(supervisors)
        yield from _pools(supervisors)
        yield from _pressure(supervisors)


def _ages(queues: Sequence[QueueStatus]) -> Iterator[Metric]:
    oldest = GaugeMetricFamily("chappe_queue_oldest_seconds", "Seconds since the next message was sent or due.", labels=("queue",))
    paused = GaugeMetricFamily("chappe_queue_paused", "Whether nothing is taken from a queue.", labels=("queue",))
    for queue in queues:
        if not queue.temporary:
            oldest.add_metric((queue.name,), queue.oldest or 0.0)
            paused.add_metric((queue.name,), float(queue.paused))
    yield from (oldest, paused)


def _times(supervisors: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Return how long messages waited and ran, as the workers of all hosts have measured it since their supervisors started."""
    waited = HistogramMetricFamily(
        "chappe_message_waiting_seconds", "Seconds from when messages were sent to their first start.", labels=("host", "queue")
    )
    ran = HistogramMetricFamily("chappe_message_running_seconds", "Seconds for which attempts ran.", labels=("host", "queue"))
    bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
    for supervisor in supervisors:
        told: Sequence[tuple[str, tuple[list[int], float], tuple[list[int], float]]] = supervisor.get("times", ())
        for queue, waits, runs in told:
            for family, (counts, total) in ((waited, waits), (ran, runs)):
                family.add_metric((supervisor["host"], queue), list(zip(bounds, itertools.accumulate(counts), strict=True)), total)
    yield from (waited, ran)


def _pools(supervisors: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    processes = GaugeMetricFamily("chappe_pool_processes", "Processes of a pool by state.", labels=("host", "pool", "state"))
    wanted = GaugeMetricFamily("chappe_pool_processes_wanted", "Processes that a pool is to have.", labels=("host", "pool"))
    slots = GaugeMetricFamily("chappe_pool_slots_busy", "Slots in which a message runs.", labels=("host", "pool"))
    memory = GaugeMetricFamily("chappe_pool_memory_bytes", "Memory of all processes of a pool.", labels=("host", "pool"))
    inputs = GaugeMetricFamily("chappe_pool_load", "What the number of processes is decided by.", labels=("host", "pool", "input"))
    for supervisor in supervisors:
        for name, pool in supervisor["pools"].items():
            place = (supervisor["host"], name)
            states = [process["state"] for process in pool["processes"]]
            for state in PROCESS_STATES:
                processes.add_metric((*place, state), states.count(state))
            wanted.add_metric(place, pool["wanted"])
            slots.add_metric(place, pool["busy"])
            memory.add_metric(place, sum(process["memory"] for process in pool["processes"]) * 2**20)
            load: Mapping[str, Any] = pool["load"] or {}
            for one, value in load.items():
                inputs.add_metric((*place, one), value or 0.0)
    yield from (processes, wanted, slots, memory, inputs)


def _pressure(supervisors: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    seen = GaugeMetricFamily("chappe_host_pressure", "What the governor of a host goes by.", labels=("host", "input"))
    limit = GaugeMetricFamily(
        "chappe_governor_slots", "Slots that the governor of a host allows, and all there are.", labels=("host", "slots")
    )
    for supervisor in supervisors:
        pressure: Mapping[str, Any] = supervisor.get("pressure") or {}
        for one in ("cpu", "stalled", "probe", "slow"):
            if pressure.get(one) is not None:
                seen.add_metric((supervisor["host"], one), pressure[one])
        if "limit" in pressure:
            limit.add_metric((supervisor["host"], "allowed"), pressure["limit"])
            limit.add_metric((supervisor["host"], "all"), pressure["slots"])
    yield from (seen, limit)
