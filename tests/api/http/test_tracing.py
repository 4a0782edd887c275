"""Spans reach a collector, under the caller's trace, and hold no id; none is made unless asked for."""

import builtins
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from api.app import build_app
from api.http.tracing import ENDPOINT_VARIABLE, TracingMiddleware
from tests.api.servers import passes, serving, settings, wait

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector(monkeypatch):
    """A collector over HTTP; its spans."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(ENDPOINT_VARIABLE, f"http://127.0.0.1:{server.server_port}")
    yield spans
    server.shutdown()
    server.server_close()


def values(span):
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def test_a_request_is_a_span_of_its_callers_trace(home, light, collector, capsys):
    with serving(settings(home, light)) as server:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
        server.client.get("/v1/entities/user/private-person", headers=headers)
        server.client.get("/private/path")
        server.client.get("/livez")
    wait(lambda: len(collector) >= 2)
    by_name = {span.name: span for span in collector}
    assert set(by_name) == {"GET /v1/entities/{kind}/{id:path}", "unmatched"}
    span = by_name["GET /v1/entities/{kind}/{id:path}"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert values(span)["http.response.status_code"] == 404
    assert values(span)["recsys_meta.request_id"] == "mine"
    assert not any("private" in str(span) for span in collector)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line]
    assert [line["trace_id"] for line in lines if line.get("request_id") == "mine"] == [TRACE]


def test_a_collector_that_is_away_costs_no_answer(home, light, monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    monkeypatch.setenv(ENDPOINT_VARIABLE, "http://127.0.0.1:1")
    with serving(settings(home, light)) as server:
        assert server.recommend("i1").status_code == 200


def test_without_the_packages_there_is_a_line_in_the_log_and_no_tracing(tmp_path, monkeypatch, capsys):
    def without(name, *more, real=builtins.__import__):
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setenv(ENDPOINT_VARIABLE, "http://127.0.0.1:1")
    monkeypatch.setattr(builtins, "__import__", without)
    app = build_app(settings(tmp_path, f"sqlite:///{tmp_path}/x.db"))
    assert not passes(app, TracingMiddleware)
    assert "extra `otel`" in capsys.readouterr().out


def test_no_collector_no_tracing(tmp_path, monkeypatch):
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)
    assert not passes(build_app(settings(tmp_path, f"sqlite:///{tmp_path}/x.db")), TracingMiddleware)


def test_a_collector_named_is_a_middleware_more(tmp_path, collector):
    assert passes(build_app(settings(tmp_path, f"sqlite:///{tmp_path}/x.db")), TracingMiddleware)
