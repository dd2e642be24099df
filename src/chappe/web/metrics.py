"""What Prometheus scrapes: the queues as the engine sees them, and this gateway's own requests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from chappe.beats import BOUNDS
from chappe.engines.contract.fleet import PROCESS_STATES, Overview, QueueStatus

_PER_QUEUE: Final[Sequence[tuple[str, str, Callable[[QueueStatus], float]]]] = (
    ("consumers", "Connected workers that serve a queue.", lambda queue: queue.consumers),
    ("oldest_seconds", "Seconds since the next message was sent or due.", lambda queue: queue.oldest or 0.0),
    ("paused", "Whether nothing is taken from a queue.", lambda queue: float(queue.paused)),
)
_PER_POOL: Final[Sequence[tuple[str, str, Callable[[Mapping[str, Any]], float]]]] = (
    ("processes_wanted", "Processes that a pool is to have.", lambda pool: pool["wanted"]),
    ("slots_busy", "Slots in which a message runs.", lambda pool: pool["busy"]),
    ("memory_bytes", "Memory of all processes of a pool.", lambda pool: sum(process["memory"] for process in pool["processes"]) * 2**20),
)
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


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
        roles = [client.role for client in self._overview.clients]
        yield _gauge("clients", "Connected processes by role.", ("role",), [((role,), roles.count(role)) for role in sorted(set(roles))])
        # each process gives its own temporary queues new names: their series would never end
        yield from _queues([queue for queue in self._overview.queues if not queue.temporary])
        supervisors = {str(told["host"]): told for told in self._overview.supervisors}
        yield from _times(supervisors)
        yield from _pools({(host, name): pool for host, told in supervisors.items() for name, pool in told["pools"].items()})
        yield from _pressure({host: told.get("pressure") or {} for host, told in supervisors.items()})


def _gauge(name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(f"chappe_{name}", text, labels=labels)
    for values, sample in samples:
        family.add_metric(values, sample)
    return family


def _queues(queues: Sequence[QueueStatus]) -> Iterator[Metric]:
    total = CounterMetricFamily("chappe_messages", "Messages since the engine started, by what happened.", labels=("queue", "outcome"))
    for queue in queues:
        for outcome in ("published", "done", "retried", "died"):
            if (count := getattr(queue, outcome)) is not None:
                total.add_metric((queue.name, outcome), count)
    yield total
    states = [((queue.name, state), getattr(queue, state)) for queue in queues for state in ("ready", "running", "delayed", "dead")]
    yield _gauge("queue_messages", "Messages of a queue in each state.", ("queue", "state"), states)
    for name, text, value in _PER_QUEUE:
        yield _gauge(f"queue_{name}", text, ("queue",), [((queue.name,), value(queue)) for queue in queues])


def _times(supervisors: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Return how long messages waited and ran, as the workers of all hosts have measured it since their supervisors started."""
    waited = HistogramMetricFamily(
        "chappe_message_waiting_seconds", "Seconds from when messages were sent to their first start.", labels=("host", "queue")
    )
    ran = HistogramMetricFamily("chappe_message_running_seconds", "Seconds for which attempts ran.", labels=("host", "queue"))
    bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
    for host, told in supervisors.items():
        times: Sequence[tuple[str, tuple[list[int], float], tuple[list[int], float]]] = told.get("times", ())
        for queue, waits, runs in times:
            for family, (counts, total) in ((waited, waits), (ran, runs)):
                family.add_metric((host, queue), list(zip(bounds, itertools.accumulate(counts), strict=True)), total)
    yield from (waited, ran)


def _pools(pools: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[Metric]:
    states = [
        ((*place, state), sum(process["state"] == state for process in pool["processes"]))
        for place, pool in pools.items()
        for state in PROCESS_STATES
    ]
    yield _gauge("pool_processes", "Processes of a pool by state.", ("host", "pool", "state"), states)
    for name, text, value in _PER_POOL:
        yield _gauge(f"pool_{name}", text, ("host", "pool"), [(place, value(pool)) for place, pool in pools.items()])
    loads: dict[tuple[str, str], Mapping[str, float | None]] = {place: pool["load"] or {} for place, pool in pools.items()}
    inputs = [((*place, one), value or 0.0) for place, load in loads.items() for one, value in load.items()]
    yield _gauge("pool_load", "What the number of processes is decided by.", ("host", "pool", "input"), inputs)


def _pressure(hosts: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    inputs = ("cpu", "stalled", "probe", "slow")
    seen = [((host, one), told[one]) for host, told in hosts.items() for one in inputs if told.get(one) is not None]
    yield _gauge("host_pressure", "What the governor of a host goes by.", ("host", "input"), seen)
    names = {"allowed": "limit", "all": "slots"}
    slots = [((host, name), told[key]) for host, told in hosts.items() if "limit" in told for name, key in names.items()]
    yield _gauge("governor_slots", "Slots that the governor of a host allows, and all there are.", ("host", "slots"), slots)
