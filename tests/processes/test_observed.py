"""What the processes of `chappe run` tell a collector of traces and a server of errors, which the environment names."""

import gzip
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sentry_sdk.envelope import Envelope

from ..waiting import until
from .conftest import Mill

APPLICATION = """
import os, signal
import sentry_sdk
from opentelemetry import trace
from chappe import App, Command, Context, Retry
from chappe.integrations.opentelemetry import tracing
from chappe.integrations.sentry import sentry
from mill import write

sentry_sdk.init(default_integrations=False)  # what it imports by default takes seconds
app = App("press")
app.use(tracing())
app.use(sentry())


class Bake(Command, queue="press", process=True):
    pass


class Slice(Command, queue="slices"):
    pass


class Crush(Command, queue="press", process=True, retry=Retry(1)):
    how: str


@app.handles(Bake)
def bake(command: Bake, context: Context) -> None:
    with trace.get_tracer("bakery").start_as_current_span("in the oven"):
        context.send(Slice())


@app.handles(Slice)
def slice(command: Slice) -> None:
    write("done", "slice")


@app.handles(Crush)
def crush(command: Crush) -> None:
    if command.how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("too hard")
"""
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Server:
    """Takes what is posted to it."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                take(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Seen:
    """The spans and the errors that came."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.errors: list[dict[str, Any]] = []

    def spans_came(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def errors_came(self, body: bytes) -> None:
        self.errors += [item.payload.json for item in Envelope.deserialize(body).items if item.type == "event" and item.payload.json]


@pytest.fixture
def seen(mill: Mill) -> Iterator[Seen]:
    seen = Seen()
    collector, errors = Server(seen.spans_came), Server(seen.errors_came)
    (mill.folder / "press.py").write_text(APPLICATION)
    mill.environment |= {
        "CHAPPE_APP": "press:app",
        "SENTRY_DSN": f"http://key@{errors.host}/1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.host}",
        "OTEL_SERVICE_NAME": "bakery",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",  # what is exported is so because the processes end
    }
    yield seen
    collector.close()
    errors.close()


def test_traces_and_errors_come_from_every_process_of_a_run(mill: Mill, seen: Seen) -> None:
    mill.run()
    for body in ({"how": "raise"}, {"how": "die"}):
        assert httpx2.post(f"{mill.address()}/commands/crush", json=body).status_code == 202
    until(lambda: len(seen.errors) >= 2, "the errors to come")
    answer = httpx2.post(f"{mill.address()}/commands/bake", json={}, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert answer.status_code == 202, answer.text
    until(lambda: mill.names("done"), "the second command to be handled")
    assert seen.spans == []
    mill.end()
    until(lambda: len([span for span in seen.spans if span.trace_id.hex() == TRACE]) >= 5, "the spans to come")

    above = bytes.fromhex(SPAN)
    for name in ("send press", "process press", "in the oven", "send slices", "process slices"):
        (span,) = [span for span in seen.spans if (span.name, span.trace_id.hex()) == (name, TRACE)]
        assert span.parent_span_id == above, name
        above = span.span_id
    assert seen.services == {"bakery"}

    died, raised = sorted(seen.errors, key=lambda event: event["exception"]["values"][-1]["type"])  # once each, by who saw it
    assert [(v["type"], v["value"]) for v in raised["exception"]["values"]] == [("ValueError", "too hard")]
    assert raised["exception"]["values"][0]["stacktrace"]["frames"][-1]["function"] == "crush"
    assert died["exception"]["values"][-1]["type"] == "ProcessLost"
    assert [event["contexts"]["command"]["attempt"] for event in (raised, died)] == [1, 1]
