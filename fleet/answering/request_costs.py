"""What a finished request took and cost, from the head's account of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.answering.views import GenerateResult, TokenLogprobs
from fleet.deploying.desired import PipelineSpec
from fleet.planning.plan import StagePlan
from fleet.telemetry.records import source_of
from fleet.telemetry.views import DeviceCost, FinishReason, StageShare
from protos.v1 import pipeline_pb2 as pb
from protos.v1 import telemetry_pb2

REASONS: Mapping[int, FinishReason] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_CANCELLED: "cancelled",
    pb.FINISH_REASON_ERROR: "error",
}


def result(
    deployment: str,
    spec: PipelineSpec,
    finished: pb.Finished,
    *,
    request_id: str,
    text: str,
    token_ids: Sequence[int],
    prompt_tokens: int,
    reason: FinishReason,
    in_thought: bool = False,
    logprobs: Sequence[TokenLogprobs] = (),
) -> GenerateResult:
    """Of a request that the pipeline `spec` of `deployment` has answered.

    Seconds are the head's; per output token after the first, as OpenTelemetry's gen_ai.server.time_per_output_token.
    """
    timing = finished.timing
    first_seconds, total_seconds = timing.first_token_seconds, timing.total_seconds
    modelled = timing.HasField("modelled_first_token_seconds") and timing.HasField("modelled_total_seconds")
    after_first = timing.told_tokens - 1
    modelled_tpot = (
        (timing.modelled_total_seconds - timing.modelled_first_token_seconds) / after_first if modelled and after_first > 0 else None
    )
    return GenerateResult(
        request_id=request_id,
        model=spec.plan.model,
        deployment=deployment,
        text=text,
        token_ids=tuple(token_ids),
        in_thought=in_thought,
        logprobs=tuple(logprobs),
        finish_reason=reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=len(token_ids),
        ttft_seconds=first_seconds,
        tpot_seconds=(total_seconds - first_seconds) / after_first if after_first > 0 else None,
        modelled_ttft_seconds=timing.modelled_first_token_seconds if modelled else None,
        modelled_tpot_seconds=modelled_tpot,
        total_seconds=total_seconds,
        queue_seconds=timing.queue_seconds,
        devices=device_costs(spec.plan.stages, finished.usage, len(token_ids)),
        reused_tokens=timing.reused_tokens,
        decode=spec.plan.decode,
        drafted_tokens=timing.drafted_tokens,
        accepted_tokens=timing.accepted_tokens,
    )


def device_costs(stages: Sequence[StagePlan], usage: Sequence[telemetry_pb2.StageUsage], tokens: int) -> tuple[DeviceCost, ...]:
    """In the order of the stages; a device that holds several has one line. Unmetered joules stay None."""
    planned = {stage.device_id: stage for stage in stages}
    order = {stage.device_id: number for number, stage in reversed(list(enumerate(stages)))}
    by_device: dict[str, list[telemetry_pb2.StageUsage]] = {}
    for one in usage:
        by_device.setdefault(one.device_id, []).append(one)
    return tuple(
        _device_cost(device, planned.get(device), by_device[device], tokens)
        for device in sorted(by_device, key=lambda device: (order.get(device, len(order)), device))
    )


def stage_shares(stages: Sequence[StagePlan], usage: Sequence[telemetry_pb2.StageUsage]) -> tuple[StageShare, ...]:
    """In the order of the stages; of attempts that gave way to others, too."""
    names = {stage.device_id: stage.device_name for stage in stages}
    return tuple(
        StageShare(
            one.stage,
            one.device_id,
            names.get(one.device_id, one.device_id),
            one.busy_seconds,
            one.modelled_busy_seconds if one.HasField("modelled_busy_seconds") else None,
            None if (source := source_of(one.source)) == "unmetered" else one.joules,
            source,
            one.prefill_rows,
            one.decode_rows,
        )
        for one in sorted(usage, key=lambda one: one.stage)
    )


def _device_cost(device: str, stage: StagePlan | None, usage: Sequence[telemetry_pb2.StageUsage], tokens: int) -> DeviceCost:
    source = source_of(usage[0].source)
    joules = None if source == "unmetered" else sum(one.joules for one in usage)
    modelled = [one.modelled_busy_seconds for one in usage if one.HasField("modelled_busy_seconds")]
    return DeviceCost(
        device_id=device,
        device_name=stage.device_name if stage else device,
        profile=stage.profile if stage else "",
        simulated=stage.simulated if stage else False,
        busy_seconds=sum(one.busy_seconds for one in usage),
        modelled_busy_seconds=sum(modelled) if modelled else None,
        joules=joules,
        source=source,
        joules_per_token=joules / tokens if joules is not None and tokens else None,
        rejected_rows=sum(one.rejected_rows for one in usage),
        joules_rejected=None if joules is None else sum(one.joules_rejected for one in usage),
    )
