"""Traces by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector and the extra `otel` is installed.

Each request is one span, a child of the caller's `traceparent`; the log line of the request holds its trace id. Spans
leave in batches from a thread of the exporter: a collector that is unavailable delays no response.

Why none of OpenTelemetry's instrumentors (0.66b2, measured on CPython 3.11):

* ASGI, and FastAPI which builds on it: three to five times the cost (90 to 155 microseconds a request against 27), and
  the path, which holds ids of entities, in names and attributes.
* Redis: twice the CPU of a GET (200 microseconds against 98), and the GETs of all requests in one turn of the event
  loop leave as one MGET, whose span would stand under the first of those requests alone.
* SQLAlchemy: refuses versions from 2.1. Its spans would also need the context copied into the database's threads, and
  hold the text of a driver's error, which may repeat an id.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.request_context import UNMATCHED, request_context, route_template
from recsys_meta import __version__

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

_EXEMPT_PATHS = frozenset(("/livez", "/readyz", "/metrics"))
_PROPAGATION_HEADERS = (b"traceparent", b"tracestate")


class RequestTracer:
    """Starts and ends the span of a request. `provider` is an OpenTelemetry TracerProvider."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._trace = provider, trace
        self._tracer = provider.get_tracer("recsys-meta", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def start(self, scope: Scope) -> Any:
        """Start the span of a request and write its trace id into the request context."""
        carrier = {
            name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _PROPAGATION_HEADERS
        }
        parent = self._propagator.extract(carrier)
        span = self._tracer.start_span(scope["method"], context=parent, kind=self._trace.SpanKind.SERVER)
        request_context(scope).trace_id = f"{span.get_span_context().trace_id:032x}"
        return span

    def end(self, span: Any, scope: Scope) -> None:
        """End a span with the name and attributes of the semantic conventions for HTTP servers."""
        context, route = request_context(scope), route_template(scope)
        status = context.status or 500  # no response yet: the outermost middleware will send a 500
        span.update_name(f"{scope['method']} {route}" if route != UNMATCHED else UNMATCHED)
        span.set_attributes(
            {
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "recsys_meta.request_id": context.request_id,
            }
        )
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send the spans that wait, for five seconds at most, and end the exporter's thread."""
        self._provider.force_flush(5_000)
        self._provider.shutdown()


def open_tracing(environment: Mapping[str, str], log: Any) -> RequestTracer | None:
    """Open tracing where a collector is named. Without the packages of the extra it logs a warning and is off."""
    if not environment.get(ENDPOINT_VARIABLE):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("no tracing", reason=f"{ENDPOINT_VARIABLE} is set, but the extra `otel` is not installed")
        return None
    resource = Resource.create(
        {"service.name": environment.get("OTEL_SERVICE_NAME", "recsys-meta"), "process.pid": os.getpid()}
    )
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
    return RequestTracer(provider)


class TracingMiddleware:
    """ASGI middleware that makes a span of each request but those of probes."""

    def __init__(self, app: ASGIApp, tracer: RequestTracer) -> None:
        self.app, self.tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _EXEMPT_PATHS:
            await self.app(scope, receive, send)
            return
        span = self.tracer.start(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            self.tracer.end(span, scope)
