"""Traces by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector and the extra `otel` is installed.

One span for each request, a child of the caller's `traceparent`; its id stands in the log beside the request's. Spans
leave in batches from a thread of the exporter: a collector that is away costs no answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.request_context import UNMATCHED, request_context, route_template
from recsys_meta import __version__

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

_SILENT = frozenset(("/livez", "/readyz", "/metrics"))


class RequestTracer:
    """Makes spans. `close` sends those that wait, and waits for that five seconds at most."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._trace = provider, trace
        self._tracer = provider.get_tracer("recsys-meta", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def start(self, scope: Scope) -> Any:
        """A span for a request; its trace is noted for the log."""
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = self._propagator.extract({k: given[k] for k in ("traceparent", "tracestate") if k in given})
        span = self._tracer.start_span(scope["method"], context=parent, kind=self._trace.SpanKind.SERVER)
        request_context(scope).trace_id = f"{span.get_span_context().trace_id:032x}"
        return span

    def end(self, span: Any, scope: Scope) -> None:
        """End a span under the names of the semantic conventions; the route, never the path, which holds ids."""
        context, route = request_context(scope), route_template(scope)
        status = context.status or 500  # nothing sent: the outermost middleware will say that the server failed
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
        """Send what waits."""
        self._provider.force_flush(5_000)
        self._provider.shutdown()


def open_tracing(environment: Mapping[str, str], log: Any) -> RequestTracer | None:
    """Tracing where a collector is named; without the packages a line in the log, and none."""
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
    about = Resource.create(
        {"service.name": environment.get("OTEL_SERVICE_NAME", "recsys-meta"), "process.pid": os.getpid()}
    )
    provider = TracerProvider(resource=about)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
    return RequestTracer(provider)


class TracingMiddleware:
    """ASGI middleware: a span around each request but those of probes."""

    def __init__(self, app: ASGIApp, tracing: RequestTracer) -> None:
        self.app, self.tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _SILENT:
            await self.app(scope, receive, send)
            return
        span = self.tracing.start(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            self.tracing.end(span, scope)
