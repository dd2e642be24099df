"""Traces of messages, by the messaging conventions of OpenTelemetry: from who sends through the queues to who handles.

::

    app.use(tracing())

Without an SDK, or with `OTEL_SDK_DISABLED`, it does nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.trace import Link, NoOpTracer, ProxyTracerProvider, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from chappe import output
from chappe.bus.bus import Handle, Middleware, Send
from chappe.bus.context import Context
from chappe.bus.draft import Draft
from chappe.bus.loop import failure_of
from chappe.failures import Elsewhere, describe, summarize
from chappe.messages.capabilities import MessageSpec
from chappe.messages.envelope import TENANT, Publication
from chappe.messages.topology import EVENTS
from chappe.redaction import without_secrets

_OTLP: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOL: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def tracing(provider: TracerProvider | None = None) -> Middleware:
    """Return the middleware that makes a span of each send and each handling, and carries the trace along with the messages.

    Its provider is the global one, which the environment variables `OTEL_…` make where the application has made none. It is asked for with
    the first message: an application that configures OpenTelemetry itself does so before.
    """
    if provider is None:
        _ = _exporters()  # imported here, and not in an event loop
    return _Tracing(provider)


class _Tracing(Middleware):
    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._flushes = False

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        tracer = self._tracer()
        if tracer is None:
            return call_next
        destination = spec.queue or (spec.exchange or EVENTS).name
        attributes = _attributes("send", spec) | ({"messaging.destination.template": destination} if "{" in destination else {})

        def send(message: Any, draft: Draft) -> Publication:
            headers = draft.headers or {}
            parent = _parent(headers)
            with tracer.start_as_current_span(f"send {destination}", parent, SpanKind.PRODUCER, attributes) as span:
                draft.headers = dict(headers)
                propagate.inject(draft.headers)
                publication = call_next(message, draft)
                if span.is_recording():
                    span.set_attributes(_of_publication(publication))
            return publication

        return send

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        tracer = self._tracer()
        if tracer is None:
            return call_next
        attributes, template = _attributes("process", spec), spec.queue if spec.queue and "{" in spec.queue else None
        if template:
            attributes["messaging.destination.template"] = template

        async def handle(message: Any, context: Context) -> Any:
            if not context.queue:  # inline: a part of who sends it, through no queue
                with tracer.start_as_current_span(f"process {spec.name}", attributes=attributes) as span:
                    context.on_send = _stamping(span)
                    return await call_next(message, context)
            parent = propagate.extract(context.headers)
            creation = trace.get_current_span(parent).get_span_context()
            links = [Link(creation)] if creation.is_valid else ()
            name = f"process {template or context.queue}"
            with tracer.start_as_current_span(
                name,
                parent,
                SpanKind.CONSUMER,
                attributes | _of_context(context),
                links,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                context.on_send = _stamping(span)
                if spec.process is not None:  # it goes on in another process, from its headers
                    context.headers = dict(context.headers)
                    propagate.inject(context.headers)
                try:
                    return await call_next(message, context)
                except BaseException as error:  # it is raised again, whatever it is
                    if (failure := failure_of(error, context.limit)) is not None:
                        _record(span, failure)
                    raise

        return handle

    def wrap_apart(self, spec: MessageSpec, call_next: Handle) -> Handle:
        if self._tracer() is None:
            return call_next

        async def apart(message: Any, context: Context) -> Any:
            parent = propagate.extract(context.headers)
            context.on_send = _stamping(trace.get_current_span(parent))
            token = contexts.attach(parent)
            try:
                return await call_next(message, context)
            finally:
                contexts.detach(token)

        return apart

    def _tracer(self) -> Tracer | None:
        """Return what makes the spans, or nothing where nobody would hear of them."""
        provider = self._provider or trace.get_tracer_provider()
        if isinstance(provider, ProxyTracerProvider):
            if (made := _by_environment()) is None:
                return None
            provider = made
        if not self._flushes:
            self._flushes = True
            output.last_reports.append(getattr(provider, "force_flush", bool))
        tracer = provider.get_tracer("chappe", importlib.metadata.version("chappe"))
        return None if isinstance(tracer, NoOpTracer) else tracer


def _by_environment() -> TracerProvider | None:
    """Make the global provider if the environment says where spans are to go."""
    if not (exporters := _exporters()):
        return None
    from opentelemetry.sdk.trace import TracerProvider as Provider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = Provider()
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(provider)
    return provider


def _exporters() -> list[Callable[[], Any]]:
    """Return what makes the exporters that the environment names."""
    names = os.environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(os.environ.get(name) for name in _OTLP) else "none")
    found: list[Callable[[], Any]] = []
    for name in map(str.strip, names.split(",")):
        exporter = name
        if name == "otlp":
            protocol = next((value for each in _PROTOCOL if (value := os.environ.get(each))), "http/protobuf")
            exporter = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
        found += [one.load() for one in importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=exporter)]
    return found


def _parent(headers: dict[str, str]) -> contexts.Context | None:
    """Return what a send is a part of: the current span, or the one that its headers name, whichever is nearer."""
    came = propagate.extract(headers)
    named = trace.get_current_span(came).get_span_context()
    if not named.is_valid:
        return None
    above = getattr(trace.get_current_span(), "parent", None)  # of a server that continues the trace of the request
    return None if above is not None and above.span_id == named.span_id else came


def _stamping(span: Span) -> Any:
    """Return what has a message that leaves with the acknowledgement know from which span it was sent."""
    own = span.get_span_context().trace_id

    def stamp(draft: Draft) -> None:
        current = trace.get_current_span()
        sender = current if current.get_span_context().trace_id == own else span  # messages that are handled together have one context
        draft.headers = dict(draft.headers or {})
        propagate.inject(draft.headers, trace.set_span_in_context(sender))

    return stamp


def _attributes(operation: str, spec: MessageSpec) -> dict[str, str]:
    return {
        "messaging.system": "chappe",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "chappe.message.type": spec.name,
    }


def _of_publication(publication: Publication) -> dict[str, Any]:
    envelope = publication.envelope
    found = {
        "messaging.destination.name": publication.exchange or publication.routing_key,
        "messaging.message.id": envelope.id,
        "messaging.message.body.size": len(envelope.body),
    }
    return found | _told(envelope.correlation_id, envelope.headers)


def _of_context(context: Context) -> dict[str, Any]:
    found = {"messaging.destination.name": context.queue, "messaging.message.id": context.id, "chappe.message.attempt": context.attempt}
    return found | _told(context.correlation_id, context.headers)


def _told(correlation_id: str | None, headers: Any) -> dict[str, str]:
    found = {"messaging.message.conversation_id": correlation_id, "chappe.tenant": headers.get(TENANT)}
    return {name: value for name, value in found.items() if value is not None}


def _record(span: Span, failure: BaseException) -> None:
    summary, kind = without_secrets(summarize(failure)), type(failure)
    name, _, message = summary.partition(": ")
    if kind.__module__ != "builtins" and not isinstance(failure, Elsewhere):
        name = f"{kind.__module__}.{kind.__qualname__}"
    trace_of_it = without_secrets(describe(failure))
    span.add_event("exception", {"exception.type": name, "exception.message": message, "exception.stacktrace": trace_of_it})
    span.set_attribute("error.type", name)
    span.set_status(Status(StatusCode.ERROR, summary))
