"""What requests took and gave since the coordinator started, as Prometheus' counters and histograms."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from fleet.telemetry.views import EndedRequest

PROVIDER, OPERATION = "glmfleet", "text_completion"
# As OpenTelemetry's semantic conventions of generative AI recommend. Of the time per token theirs begin at 10 ms:
# small models take less, so finer ones come before them.
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TPOT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
QUEUE_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Some 120 series each. Names of deployments are of people's choice, and whoever deploys under ever new ones must not fill Prometheus.
MOST_DEPLOYMENTS = 64
disable_created_metrics()  # type: ignore[no-untyped-call] # of each counter and histogram the time of its first value: as many series more

_Meter = TypeVar("_Meter", Counter, Histogram)
_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class RequestMeters:
    """`ended` of each; `registry` has what is exported. Labels are names of deployments, never anything that a request brings; of more
    than `most_deployments` those that have answered last."""

    def __init__(self, most_deployments: int = MOST_DEPLOYMENTS) -> None:
        self._most_deployments = most_deployments
        self.registry = registry = CollectorRegistry()
        # By deployment, that which has answered last at the end.
        self._labels: OrderedDict[str, set[tuple[Counter | Histogram, tuple[str, ...]]]] = OrderedDict()
        self._ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request's arrival at the head to its first token.",
            _GEN_AI,
            buckets=TTFT_BUCKETS,
            registry=registry,
        )
        self._tpot = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Of each token behind the first, in the mean of its request.",
            _GEN_AI,
            buckets=TPOT_BUCKETS,
            registry=registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request's arrival at the head to its end.",
            (*_GEN_AI, "error_type"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._queue = Histogram(
            "glmfleet_request_queue_seconds",
            "From the request's arrival at the head to its first row.",
            ("deployment",),
            buckets=QUEUE_BUCKETS,
            registry=registry,
        )
        self._requests = Counter("glmfleet_requests", "Requests that have ended.", ("deployment", "finish_reason"), registry=registry)
        self._tokens = Counter("glmfleet_tokens", "Tokens of requests that have ended.", ("deployment", "kind"), registry=registry)
        self._joules = Counter(
            "glmfleet_request_energy_joules", "What devices spent on requests that have ended.", ("deployment", "source"), registry=registry
        )
        self._recoveries = Counter(
            "glmfleet_recoveries", "Times that an answer went on after its pipeline broke.", ("deployment",), registry=registry
        )
        self._paused = Counter(
            "glmfleet_recovery_seconds", "Seconds without a token while a pipeline was broken.", ("deployment",), registry=registry
        )

    def ended(self, ended: EndedRequest) -> None:
        request, name = ended.request, ended.request.deployment
        self._keep(name)
        labels = (OPERATION, PROVIDER, name)
        self._of(self._duration, *labels, "error" if request.finish_reason == "error" else "").observe(request.total_seconds)
        if request.completion_tokens and request.finish_reason != "error":  # nobody tells when its first token came
            self._of(self._ttft, *labels).observe(request.ttft_seconds)
        if request.tpot_seconds is not None:
            self._of(self._tpot, *labels).observe(request.tpot_seconds)
        if request.queue_seconds is not None:
            self._of(self._queue, name).observe(request.queue_seconds)
        self._of(self._requests, name, request.finish_reason).inc()
        self._of(self._tokens, name, "prompt").inc(request.prompt_tokens)
        self._of(self._tokens, name, "completion").inc(request.completion_tokens)
        for cost in request.devices:
            if cost.joules is not None:
                self._of(self._joules, name, cost.source).inc(cost.joules)
        if ended.recoveries:
            self._of(self._recoveries, name).inc(ended.recoveries)
            self._of(self._paused, name).inc(ended.recovery_seconds)

    def _keep(self, deployment: str) -> None:
        self._labels.setdefault(deployment, set())
        self._labels.move_to_end(deployment)
        while len(self._labels) > self._most_deployments:
            for meter, labels in self._labels.popitem(last=False)[1]:
                meter.remove(*labels)

    def _of(self, meter: _Meter, *labels: str) -> _Meter:
        """The series of these labels, of the deployment that was kept last."""
        next(reversed(self._labels.values())).add((meter, labels))
        return meter.labels(*labels)
