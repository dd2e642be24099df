"""Spans of sends and handlings, seen by OpenTelemetry's own SDK."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes as conventions
from opentelemetry.trace import SpanKind, StatusCode

from chappe import App, Command, Context, Event, Reject, Retry, RetryLater, Snooze
from chappe.integrations.opentelemetry import tracing
from chappe.testing import Trial, testing
from chappe.web.gateway import gateway

from ..web.shop import of_this_user

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Order(Command, queue="orders.{shop}", retry=Retry(3, delay=0.0, jitter=0.0), fair="{shop}"):
    shop: Literal["north", "south"] = "north"
    how: str = "well"


class Invoice(Command, queue="invoices"):
    number: int = 1


class Late(Command, queue="late", timeout=0.01, retry=1):
    pass


class Several(Command, queue="several"):
    number: int


class Now(Command, inline=True):
    pass


class Ordered(Event):
    shop: str


class Spans:
    """What was exported, by name."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.all(name)
        return found

    def names(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]


class NearMiss(Exception):
    pass


@pytest.fixture
def spans() -> Spans:
    return Spans()


@contextmanager
def shop(spans: Spans, *used: Any) -> Iterator[Trial]:
    app = App("shop")
    app.use(tracing(spans.provider))
    for one in used:
        app.use(one)

    @app.handles(Order)
    async def order(command: Order, context: Context) -> None:
        with spans.tracer.start_as_current_span("look up"):
            match command.how:
                case "fail once":
                    if context.attempt == 1:
                        raise NearMiss("not yet")
                case "fail":
                    raise NearMiss("never")
                case "later":
                    if context.attempt == 1:
                        raise RetryLater("busy")
                case "reject":
                    raise Reject("no such shop")
                case "snooze":
                    if context.note is None:
                        raise Snooze(0.0, note="again")
                case _:
                    context.send(Invoice())
        context.send(Ordered(shop=command.shop))

    @app.handles(Invoice)
    def invoice(command: Invoice) -> None:
        with spans.tracer.start_as_current_span("print"):
            pass

    @app.handles(Late)
    async def late(command: Late) -> None:
        await asyncio.sleep(30)

    @app.handles(Several, batch=2)
    async def several(commands: list[Several], contexts: list[Context]) -> None:
        for command, context in zip(commands, contexts, strict=True):
            context.send(Invoice(number=command.number))

    @app.handles(Now)
    async def now(command: Now, context: Context) -> None:
        context.send(Invoice())

    @app.on(Ordered)
    def count(event: Ordered) -> None: ...

    @app.on("ordered", name="mailer")
    def mail(event: Event) -> None: ...

    with testing(app, concurrency=2) as t:
        yield t


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def itself(span: ReadableSpan) -> tuple[int, int]:
    return (span.context.trace_id, span.context.span_id)


def test_a_trace_leads_from_the_sender_through_two_queues(spans: Spans) -> None:
    with shop(spans) as t:
        with spans.tracer.start_as_current_span("request"):
            t.send(Order())
        t.drain(to_the_end=True)
    request, sent, handled = spans.one("request"), spans.one("send orders.{shop}"), spans.one("process orders.{shop}")
    looked, forwarded, printed = spans.one("look up"), spans.one("send invoices"), spans.one("process invoices")
    pairs = [(request, sent), (sent, handled), (handled, looked), (looked, forwarded), (forwarded, printed), (printed, spans.one("print"))]
    assert [parent_of(below) == itself(above) for above, below in pairs] == [True] * 6
    assert {sent.kind, forwarded.kind} == {SpanKind.PRODUCER}
    assert {handled.kind, printed.kind} == {SpanKind.CONSUMER}
    assert [(link.context.trace_id, link.context.span_id) for link in handled.links] == [itself(sent)]


def test_an_event_goes_on_in_each_of_its_subscribers(spans: Spans) -> None:
    with shop(spans) as t:
        t.publish(Ordered(shop="north"))
        t.drain()
    published = spans.one("send events")
    subscribers = [spans.one("process shop.on.count"), spans.one("process mailer")]
    assert [parent_of(span) for span in subscribers] == [itself(published)] * 2


def test_spans_say_what_the_conventions_name(spans: Spans) -> None:
    with shop(spans) as t:
        receipt = t.send(Order(shop="south"))
        t.drain()
    expected = {
        conventions.MESSAGING_SYSTEM: "chappe",
        conventions.MESSAGING_DESTINATION_NAME: "orders.south",
        conventions.MESSAGING_DESTINATION_TEMPLATE: "orders.{shop}",
        conventions.MESSAGING_MESSAGE_ID: receipt.id,
        "chappe.message.type": "order",
        "chappe.tenant": "south",
    }
    send = {
        conventions.MESSAGING_OPERATION_NAME: "send",
        conventions.MESSAGING_OPERATION_TYPE: conventions.MessagingOperationTypeValues.SEND.value,
        conventions.MESSAGING_MESSAGE_BODY_SIZE: len(b'{"shop":"south","how":"well"}'),
    }
    process = {
        conventions.MESSAGING_OPERATION_NAME: "process",
        conventions.MESSAGING_OPERATION_TYPE: conventions.MessagingOperationTypeValues.PROCESS.value,
        "chappe.message.attempt": 1,
    }
    assert dict(spans.one("send orders.{shop}").attributes or {}) == expected | send
    assert dict(spans.one("process orders.{shop}").attributes or {}) == expected | process
    invoiced = spans.one("process invoices").attributes or {}
    assert invoiced[conventions.MESSAGING_MESSAGE_CONVERSATION_ID] == receipt.id


def test_each_attempt_is_a_span_of_the_same_send(spans: Spans) -> None:
    with shop(spans) as t:
        t.send(Order(how="fail once"))
        t.drain(to_the_end=True)
    sent, attempts = spans.one("send orders.{shop}"), spans.all("process orders.{shop}")
    assert [span.attributes["chappe.message.attempt"] for span in attempts if span.attributes] == [1, 2]
    assert {parent_of(span) for span in attempts} == {itself(sent)}
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.UNSET]
    failed = attempts[0]
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == f"{__name__}.NearMiss"
    (event,) = failed.events
    assert event.name == "exception"
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "not yet"
    assert 'raise NearMiss("not yet")' in str(event.attributes["exception.stacktrace"])


@pytest.mark.parametrize(
    ("how", "error"), [("reject", "chappe.errors.Reject"), ("later", "chappe.errors.RetryLater"), ("snooze", None), ("well", None)]
)
def test_only_a_failed_attempt_is_an_error(spans: Spans, how: str, error: str | None) -> None:
    with shop(spans) as t:
        t.send(Order(how=how))
        t.drain(to_the_end=True)
    first, *_ = spans.all("process orders.{shop}")
    assert (first.attributes or {}).get("error.type") == error
    assert first.status.status_code == (StatusCode.UNSET if error is None else StatusCode.ERROR)


def test_what_took_longer_than_its_timeout_is_an_error(spans: Spans) -> None:
    with shop(spans) as t:
        t.send(Late())
        t.drain()
        assert len(t.dead) == 1
    late = spans.one("process late")
    assert (late.attributes or {})["error.type"] == "TimeoutError"


def test_what_is_handled_together_goes_on_each_in_its_own_trace(spans: Spans) -> None:
    with shop(spans) as t:
        t.send([Several(number=1), Several(number=2)])
        t.drain(to_the_end=True)
    handled, sent = spans.all("process several"), spans.all("send invoices")
    assert len({span.context.trace_id for span in handled}) == 2
    assert {parent_of(span) for span in sent} == {itself(span) for span in handled}


def test_an_inline_command_is_a_part_of_who_sends_it(spans: Spans) -> None:
    with shop(spans) as t:
        with spans.tracer.start_as_current_span("request") as request:
            t.send(Now())
        t.drain()
        above = request.get_span_context()
    now = spans.one("process now")
    assert now.kind is SpanKind.INTERNAL
    assert parent_of(now) == (above.trace_id, above.span_id)
    assert parent_of(spans.one("send invoices")) == itself(now)


async def test_the_trace_of_an_http_request_goes_on(spans: Spans) -> None:
    with shop(spans) as t:
        transport = httpx2.ASGITransport(app=of_this_user(gateway(t.app)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.post("/commands/invoice", json={"number": 2}, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        assert answer.status_code == 202
        await t.app.aclose()
        t.drain()
    sent = spans.one("send invoices")
    assert parent_of(sent) == (int(TRACE, 16), int(SPAN, 16))
    assert parent_of(spans.one("process invoices")) == itself(sent)


def test_a_server_span_of_the_same_request_is_nearer_than_the_request(spans: Spans) -> None:
    app = App("shop")
    app.use(tracing(spans.provider))
    from chappe.bus.draft import Draft

    far = trace.SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=True, trace_flags=trace.TraceFlags(1))
    with spans.tracer.start_as_current_span("server", trace.set_span_in_context(trace.NonRecordingSpan(far))) as server:
        app.bus.prepare(Invoice(), Draft("1", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"}))
        above = server.get_span_context()
    assert parent_of(spans.one("send invoices")) == (above.trace_id, above.span_id)


def test_without_an_sdk_nothing_is_wrapped(monkeypatch: pytest.MonkeyPatch, spans: Spans) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    for middleware in (tracing(), tracing(TracerProvider())):

        def send(*_: Any) -> Any: ...

        async def handle(*_: Any) -> Any: ...

        assert middleware.wrap_send(Order.__spec__, send) is send
        assert middleware.wrap_handle(Order.__spec__, handle) is handle
        assert middleware.wrap_apart(Order.__spec__, handle) is handle


def test_no_secret_of_the_settings_is_in_a_span(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chappe.redaction._known", {"correct-horse-battery"})

    async def opening(message: Any, context: Context, call_next: Any) -> Any:
        raise ConnectionError("no way to postgresql://shop:correct-horse-battery@db/shop")

    with shop(spans, opening) as t:
        t.send(Invoice())
        t.drain()
    (event,) = spans.one("process invoices").events
    assert "correct-horse" not in str(dict(event.attributes or {}))
    assert "no way to postgresql" in str(dict(event.attributes or {}))
