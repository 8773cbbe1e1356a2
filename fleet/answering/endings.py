"""How attempts and requests end: failures in the words of the fleet, deadlines, requests whose cost nobody tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fleet.answering.ledger import LedgerEntry
from fleet.deploying.desired import PipelineSpec
from fleet.deploying.pipeline import Pipeline
from fleet.deploying.stream import BROKEN_RING, COMES_BACK, TokenStream
from fleet.telemetry.views import FinishedRequest
from protos.errors import Conflict, FleetError, TimedOut, Unavailable
from protos.rpc_errors import from_failure
from protos.v1 import pipeline_pb2 as pb

# A cancelled sequence ends with the round in flight; a ring that takes longer has stopped.
END_SECONDS = 10.0


class Alarm:
    """Calls once when its time has come, unless it was put off before."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._rang = False
        self._timer: asyncio.TimerHandle | None = None

    def ring_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._ring)

    def is_set(self) -> bool:
        return self._rang

    def off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._rang = True
        self._call()


def overdue(entry: LedgerEntry) -> TimedOut:
    return TimedOut(f"the request's deadline has passed, after {len(entry.tokens)} tokens", advice="give it more time")


def check_solid(deployment: str, spec: PipelineSpec) -> None:
    """Raises Conflict for a pipeline on devices that compute nothing: there is no answer that could be true."""
    if hollow := [stage.device_name for stage in spec.plan.stages if stage.hollow]:
        raise Conflict(
            f"{deployment} is deployed on hollow devices ({', '.join(hollow[:3])}): they compute nothing and answer no prompt",
            advice=f"deploy it on devices that compute: glmfleet sim up --devices 3, then glmfleet deploy {spec.plan.model}",
        )


async def wait_end(tokens: TokenStream) -> pb.Finished:
    """Raises TimedOut when a sequence that was cancelled does not end."""
    try:
        async with asyncio.timeout(END_SECONDS):
            return await tokens.end()
    except TimeoutError:
        raise TimedOut(f"the sequence did not end within {END_SECONDS:.0f} s") from None


def failure_of(finished: pb.Finished, spec: PipelineSpec) -> FleetError:
    """What the head said, with names: it knows devices by their ids."""
    error = from_failure(finished.failure).named(spec.device_names).at(spec.plan.stages[0].device_name)
    if not finished.failure.HasField("route"):  # the release before has the route, and with it the ids, in the text
        for device, name in spec.device_names.items():
            error.cause = error.cause.replace(device, name)
    error.cause = error.cause or "the pipeline failed"
    if isinstance(error, BROKEN_RING):
        # Whatever is missing there, it is not what was asked for: another ring can answer, or this one when it stands again.
        error = Unavailable(error.cause, advice=COMES_BACK, retry_after_seconds=error.retry_after_seconds, route=error.route)
    return error


class GaveWay(Exception):
    """An attempt ended since its reader took nothing while others waited: the answer goes on with the next."""


def failed(entry: LedgerEntry, pipeline: Pipeline, now: float) -> FinishedRequest:
    """Of a request that a ring began, and whose cost nobody told: it broke."""
    seconds = max(0.0, now - entry.accepted_at)
    return FinishedRequest(
        model=pipeline.spec.plan.model,
        deployment=pipeline.desired.name,
        finish_reason="error",
        prompt_tokens=entry.prompt_tokens,
        completion_tokens=entry.completion_tokens,
        ttft_seconds=seconds,
        tpot_seconds=None,
        modelled_ttft_seconds=None,
        modelled_tpot_seconds=None,
        total_seconds=seconds,
    )
