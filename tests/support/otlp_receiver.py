"""A receiver of OTLP over HTTP that keeps what it was sent, and answers as the test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Receiver:
    url: str = ""
    status: int = 200
    holds: threading.Event | None = None  # waited for before each answer
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)  # the newest of each
    resource: dict[str, Any] = field(default_factory=dict)
    asked: int = 0

    def take(self, path: str, body: bytes) -> bytes:
        self.asked += 1
        if path == "/v1/traces":
            for traces in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = attributes(traces.resource.attributes)
                self.spans += [span for scope in traces.scope_spans for span in scope.spans]
            return ExportTraceServiceResponse().SerializeToString()
        assert path == "/v1/metrics", path
        for sent in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.resource = attributes(sent.resource.attributes)
            self.metrics |= {metric.name: metric for scope in sent.scope_metrics for metric in scope.metrics}
        return ExportMetricsServiceResponse().SerializeToString()


def attributes(pairs: Any) -> dict[str, Any]:
    """Of a span, a point or a resource."""
    return {pair.key: _value(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, str(kind))


@contextmanager
def receiving() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if found.holds is not None:
                found.holds.wait(10)
            if found.status != 200:
                found.asked += 1
                self.send_error(found.status)
                return
            answer = found.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
