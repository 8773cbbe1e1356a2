"""What requests took and gave since the coordinator started, as Prometheus' counters and histograms."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from fleet.telemetry.views import FinishedRequest

PROVIDER = "glmfleet"
# As OpenTelemetry's semantic conventions of generative AI recommend. Of the time per token theirs begin at 10 ms:
# small models take less, so finer ones come before them.
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TPOT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
disable_created_metrics()  # type: ignore[no-untyped-call] # of each counter and histogram the time of its first value: as many series more

_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class RequestMeters:
    """`ended` of each; `registry` has what is exported. Labels are names of deployments, never anything that a request brings."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
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

    def ended(self, request: FinishedRequest, recoveries: int = 0, recovery_seconds: float = 0.0) -> None:
        name = request.deployment
        labels = ("text_completion", PROVIDER, name)
        self._duration.labels(*labels, "error" if request.finish_reason == "error" else "").observe(request.total_seconds)
        if request.completion_tokens:
            self._ttft.labels(*labels).observe(request.ttft_seconds)
        if request.tpot_seconds is not None:
            self._tpot.labels(*labels).observe(request.tpot_seconds)
        self._requests.labels(name, request.finish_reason).inc()
        self._tokens.labels(name, "prompt").inc(request.prompt_tokens)
        self._tokens.labels(name, "completion").inc(request.completion_tokens)
        for cost in request.devices:
            if cost.joules is not None:
                self._joules.labels(name, cost.source).inc(cost.joules)
        if recoveries:
            self._recoveries.labels(name).inc(recoveries)
            self._paused.labels(name).inc(recovery_seconds)
