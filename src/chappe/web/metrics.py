"""What Prometheus scrapes: the queues as the engine sees them, and this gateway's own requests."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chappe.engines.contract.fleet import Overview

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
