"""Metrics and traces sent to an OpenTelemetry receiver by OTLP over HTTP, beside the work and never in its way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from queue import Full, Queue
from types import TracebackType
from typing import Self

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from fleet.background import Background
from fleet.telemetry import otlp_traces
from fleet.telemetry.otlp_metrics import metrics_data
from fleet.telemetry.otlp_settings import OtlpSettings
from fleet.telemetry.views import EndedRequest

WAITING = 2048  # requests that nobody has made spans of yet; the library keeps as many spans (OTEL_BSP_MAX_QUEUE_SIZE)
# At the end what waits is sent for so long, and what is on its way then is given up after as long again: a receiver that is away must not
# hold up whoever stops the coordinator.
FLUSH_SECONDS, END_SECONDS = 2.0, 0.5
NAME = "glmfleet"

_log = logging.getLogger(__name__)


class OtlpExport:
    """An async context manager, and a RequestObserver. All the work is a thread's, which ends with the process at the latest."""

    def __init__(self, metrics: Callable[[], str], settings: OtlpSettings) -> None:
        """`metrics`: in Prometheus' text format; called on the event loop."""
        self._metrics = metrics
        self._settings = settings
        base = None if settings.endpoint is None else settings.endpoint.rstrip("/")
        resource = Resource.create({"service.name": NAME, "service.version": version(NAME)})
        self._resource, self._scope = resource, InstrumentationScope(NAME, version(NAME))
        self._of_metrics = OTLPMetricExporter(endpoint=base and f"{base}/v1/metrics")
        self._of_spans = OTLPSpanExporter(endpoint=base and f"{base}/v1/traces")
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer(NAME, version(NAME))
        self._began = time.time_ns()
        self._failing = False
        self._waiting: Queue[EndedRequest | str | None] = Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="OTLP", daemon=True)
        self._background = Background()

    async def __aenter__(self) -> Self:
        # The library tells of each failure and each retry, once a second: once is enough.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._provider.add_span_processor(BatchSpanProcessor(self._of_spans))
        self._thread.start()
        if self._settings.metrics:
            self._background.start(self._send_repeatedly(), "metrics by OTLP")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)
        self._put(None)
        await asyncio.to_thread(self._thread.join, FLUSH_SECONDS)
        self._of_spans.shutdown()  # type: ignore[no-untyped-call] # which ends its waiting for another try
        self._of_metrics.shutdown()
        await asyncio.to_thread(self._thread.join, END_SECONDS)

    def ended(self, ended: EndedRequest) -> None:
        """Takes no time, and the oldest gives way where too many wait."""
        self._put(ended)

    def _put(self, item: EndedRequest | str | None) -> None:
        while True:
            try:
                return self._waiting.put_nowait(item)
            except Full:
                self._waiting.get_nowait()

    async def _send_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval_seconds)
            self._put(self._metrics())

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                self._send(item) if isinstance(item, str) else otlp_traces.record(self._tracer, item)
            except Exception:  # of the library, or of what it was given: the next may be well
                _log.exception("not told by OTLP")
        self._provider.shutdown()

    def _send(self, text: str) -> None:
        data = metrics_data(text, self._resource, self._scope, self._began, time.time_ns())
        sent = self._of_metrics.export(data) is MetricExportResult.SUCCESS
        if sent is self._failing:
            self._failing = not sent
            _log.warning("the OpenTelemetry receiver %s", "takes metrics again" if sent else "takes no metrics")
