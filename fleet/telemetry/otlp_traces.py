"""One trace for each request, as spans of OpenTelemetry: the queue, the prefill, all rounds together, and each stage's share of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context

from fleet.telemetry.meters import OPERATION, PROVIDER
from fleet.telemetry.views import EndedRequest, StageShare

Value = str | int | float | tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A span below the request's; times in unix seconds."""

    name: str
    begin: float
    end: float
    attributes: Mapping[str, Value] = field(default_factory=dict)


def record(tracer: Tracer, ended: EndedRequest) -> None:
    """All its spans, which are over. Nothing of what was asked or answered is in them."""
    request, failed = ended.request, ended.request.finish_reason == "error"
    root = tracer.start_span(
        f"{OPERATION} {request.deployment}", kind=SpanKind.SERVER, start_time=_nanoseconds(ended.accepted_at), attributes=_told(ended)
    )
    if failed:
        root.set_status(StatusCode.ERROR)
    for part in parts(ended):
        span: Span = tracer.start_span(
            part.name, context=set_span_in_context(root), start_time=_nanoseconds(part.begin), attributes=dict(part.attributes)
        )
        span.end(_nanoseconds(part.end))
    root.end(_nanoseconds(ended.ended_at))


def parts(ended: EndedRequest) -> Iterator[Part]:
    """As many as there are phases and stages, however many tokens there were.

    The head's seconds are laid so that they end with the request: what comes before is the prompt's making and its way there. Of a
    request that broke nobody tells them.
    """
    request = ended.request
    arrived = max(ended.accepted_at, ended.ended_at - request.total_seconds)
    if request.queue_seconds is None:
        return
    begun = min(arrived + request.queue_seconds, ended.ended_at)
    first = min(max(arrived + request.ttft_seconds, begun), ended.ended_at)
    yield Part("prompt", ended.accepted_at, arrived)
    yield Part("queue", arrived, begun)
    if not ended.stages:  # it was cancelled in the queue
        return
    rows = ended.stages[0]
    yield Part("prefill", begun, first, {"glmfleet.rows": rows.prefill_rows, "gen_ai.usage.input_tokens": request.prompt_tokens})
    if rows.decode_rows:
        yield Part("rounds", first, ended.ended_at, {"glmfleet.rounds": rows.decode_rows})
    for stage in ended.stages:
        yield Part(f"stage {stage.stage}", begun, ended.ended_at, _share(stage))


def _told(ended: EndedRequest) -> dict[str, Value]:
    request = ended.request
    told: dict[str, Value] = {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": request.deployment,
        "gen_ai.response.model": request.model,
        "gen_ai.response.id": ended.request_id,
        "gen_ai.response.finish_reasons": (request.finish_reason,),
        "gen_ai.usage.input_tokens": request.prompt_tokens,
        "gen_ai.usage.output_tokens": request.completion_tokens,
    }
    if request.finish_reason == "error":
        told["error.type"] = "error"
    if ended.recoveries:
        told |= {"glmfleet.recoveries": ended.recoveries, "glmfleet.recovery.seconds": ended.recovery_seconds}
    return told


def _share(stage: StageShare) -> dict[str, Value]:
    told: dict[str, Value] = {
        "glmfleet.stage": stage.stage,
        "glmfleet.device.id": stage.device_id,
        "glmfleet.device.name": stage.device_name,
        "glmfleet.busy.seconds": stage.busy_seconds,
        "glmfleet.energy.source": stage.source,
        "glmfleet.rows.prefill": stage.prefill_rows,
        "glmfleet.rows.decode": stage.decode_rows,
    }
    if stage.modelled_busy_seconds is not None:
        told["glmfleet.busy.modelled_seconds"] = stage.modelled_busy_seconds
    if stage.joules is not None:
        told["glmfleet.energy.joules"] = stage.joules
    return told


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
