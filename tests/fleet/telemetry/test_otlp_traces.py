"""The spans of a request: each phase and each stage once, however long the answer, and what broke is told as such."""

from __future__ import annotations

from dataclasses import replace

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from fleet.telemetry.otlp_traces import parts, record
from fleet.telemetry.views import EndedRequest, FinishedRequest, StageShare

FINISHED = FinishedRequest(
    model="glm",
    deployment="prod",
    finish_reason="stop",
    prompt_tokens=7,
    completion_tokens=500,
    ttft_seconds=0.75,
    tpot_seconds=0.01,
    modelled_ttft_seconds=None,
    modelled_tpot_seconds=None,
    total_seconds=4.0,
    queue_seconds=0.25,
)
STAGES = (
    StageShare(0, "a", "dev-1", 1.5, 0.75, 2.5, "modelled", 7, 499),
    StageShare(1, "b", "dev-2", 1.0, None, None, "unmetered", 7, 499),
)
ENDED = EndedRequest("r1", 100.0, 105.0, FINISHED, STAGES)


def test_phases_end_with_the_request_and_follow_each_other() -> None:
    spans = [(part.name, part.begin, part.end) for part in parts(ENDED)]
    assert spans == [
        ("prompt", 100.0, 101.0),
        ("queue", 101.0, 101.25),
        ("prefill", 101.25, 101.75),
        ("rounds", 101.75, 105.0),
        ("stage 0", 101.25, 105.0),
        ("stage 1", 101.25, 105.0),
    ]


def test_each_stage_says_its_device_its_time_and_its_joules() -> None:
    told = {part.name: part.attributes for part in parts(ENDED)}
    assert told["rounds"] == {"glmfleet.rounds": 499}
    assert told["stage 0"]["glmfleet.energy.joules"] == 2.5
    assert told["stage 0"]["glmfleet.busy.modelled_seconds"] == 0.75
    assert told["stage 1"]["glmfleet.energy.source"] == "unmetered"
    assert "glmfleet.energy.joules" not in told["stage 1"]  # nobody counted: it is not 0
    assert told["stage 1"]["glmfleet.device.name"] == "dev-2"


def test_nothing_is_before_its_request_and_nothing_ends_after_it() -> None:
    longer = replace(ENDED, request=replace(FINISHED, total_seconds=50.0, queue_seconds=20.0, ttft_seconds=30.0))
    for part in parts(longer):
        assert 100.0 <= part.begin <= part.end <= 105.0


def test_one_that_broke_has_no_phases_and_one_that_waited_only_a_queue() -> None:
    broke = replace(ENDED, request=replace(FINISHED, queue_seconds=None, finish_reason="error"), stages=())
    assert list(parts(broke)) == []
    cancelled = replace(ENDED, request=replace(FINISHED, queue_seconds=4.0, finish_reason="cancelled"), stages=())
    assert [part.name for part in parts(cancelled)] == ["prompt", "queue"]


def test_a_trace_is_one_and_follows_the_conventions() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    record(provider.get_tracer("test"), replace(ENDED, recoveries=2, recovery_seconds=1.5))
    failed = replace(FINISHED, finish_reason="error", queue_seconds=None)
    record(provider.get_tracer("test"), replace(ENDED, request=failed, stages=()))
    *spans, broke = kept.get_finished_spans()
    (root,) = [span for span in spans if span.parent is None]
    assert len(spans) == 7
    assert {span.context.trace_id for span in spans} == {root.context.trace_id} != {broke.context.trace_id}
    assert root.name == "text_completion prod"
    assert (root.start_time, root.end_time) == (100_000_000_000, 105_000_000_000)
    assert dict(root.attributes or {}) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "glmfleet",
        "gen_ai.request.model": "prod",
        "gen_ai.response.model": "glm",
        "gen_ai.response.id": "r1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 500,
        "glmfleet.recoveries": 2,
        "glmfleet.recovery.seconds": 1.5,
    }
    assert broke.status.status_code is StatusCode.ERROR
    assert (broke.attributes or {})["error.type"] == "error"
