"""A trace through all processes of `chappe run`, exported to a collector that the environment names."""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ..waiting import until
from .conftest import Mill

APPLICATION = """
from opentelemetry import trace
from chappe import App, Command, Context
from chappe.integrations.opentelemetry import tracing
from mill import write

app = App("press")
app.use(tracing())


class Bake(Command, queue="press", process=True):
    pass


class Slice(Command, queue="slices"):
    pass


@app.handles(Bake)
def bake(command: Bake, context: Context) -> None:
    with trace.get_tracer("bakery").start_as_current_span("in the oven"):
        context.send(Slice())


@app.handles(Slice)
def slice(command: Slice) -> None:
    write("done", "slice")
"""
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes spans as OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


def test_a_trace_leads_from_a_request_through_workers_and_handler_processes(mill: Mill, collector: Collector) -> None:
    (mill.folder / "press.py").write_text(APPLICATION)
    mill.environment |= {
        "CHAPPE_APP": "press:app",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_SERVICE_NAME": "bakery",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",  # what is exported is so because the processes end
    }
    mill.run()
    answer = httpx2.post(f"{mill.address()}/commands/bake", json={}, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert answer.status_code == 202, answer.text
    until(lambda: mill.names("done"), "the second command to be handled")
    assert collector.spans == []
    mill.end()
    until(lambda: len(collector.spans) >= 5, "the spans to come")
    above = bytes.fromhex(SPAN)
    for name in ("send press", "process press", "in the oven", "send slices", "process slices"):
        (span,) = [span for span in collector.spans if span.name == name]
        assert (span.trace_id.hex(), span.parent_span_id) == (TRACE, above), name
        above = span.span_id
    assert collector.services == {"bakery"}
