"""Answering requests: prompt in, text out as it comes, its cost at the end."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from device.text.model import TextModel
from fleet.answering import prompts
from fleet.answering.answer import Answer
from fleet.answering.request_costs import REASONS, result
from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.background import Background
from fleet.deploying.deployments import Deployments
from fleet.deploying.desired import Desired
from fleet.deploying.stream import COMES_BACK, Sequence
from fleet.telemetry.records import Telemetry
from fleet.telemetry.views import FinishReason
from protos.errors import Conflict, FleetError, Internal, TimedOut, Unavailable, by_name
from protos.ids import Digest
from protos.manifest import Manifest
from protos.plausible import implausible
from protos.v1 import pipeline_pb2 as pb
from quantize.artifact.store import ArtifactStore

# A cancelled sequence ends with the round in flight; a ring that takes longer has stopped.
END_SECONDS = 10.0
TEXTS = 8  # tokenizers kept: tens of megabytes each

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Text:
    manifest: Manifest
    model: TextModel


@dataclass(frozen=True)
class _Account:
    """What is needed to settle a request, however it ends."""

    desired: Desired
    sequence: Sequence
    answer: Answer
    prompt_tokens: int


class Generation:
    """An async context manager; on exit, requests whose clients have left are settled."""

    def __init__(
        self,
        deployments: Deployments,
        artifacts: ArtifactStore,
        telemetry: Telemetry,
        *,
        now: Callable[[], float] = time.time,
        fresh_seed: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        """`now` in unix seconds."""
        self._deployments = deployments
        self._artifacts = artifacts
        self._telemetry = telemetry
        self._now = now
        self._fresh_seed = fresh_seed
        self._texts: OrderedDict[Digest, _Text] = OrderedDict()
        self._loading = asyncio.Lock()
        self._background = Background()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk | GenerateResult, None]:
        """Chunks, then the result. Closing the iterator early cancels the sequence.

        Raises NotFound (nothing deployed under that name), InvalidInput, Unavailable while the pipeline is down or when it fails,
        Busy when the head's queue is full, and what else the head says.
        """
        live = self._deployments.serving(request.model)
        _check_solid(live.desired)
        text = await self._text(live.desired)
        prompt = await asyncio.to_thread(prompts.prompt_ids, text.model, request, text.manifest.config)
        seed = self._fresh_seed() if request.sampling.seed is None else request.sampling.seed
        submit = prompts.submit(request, prompt, text.manifest, live.desired.plan.context, seed)
        answer = Answer(text.model.stream(), request.stop)
        account = _Account(live.desired, live.stream.submit(submit), answer, len(prompt))
        settled = False
        try:
            # Forced tokens are part of the answer; the head counts them, and sends only what comes after.
            if request.forced_ids and (chunk := answer.push(request.forced_ids)):
                yield chunk
            while not answer.stopped and (ids := await account.sequence.take()) is not None:
                if chunk := answer.push(ids):
                    yield chunk
            account.sequence.cancel()  # of use only when a stop string ended the text
            finished = await _end(account.sequence)
            settled = True
            if finished.reason == pb.FINISH_REASON_ERROR:
                raise _failure(finished, live.desired)
            if problem := implausible(finished):
                raise Internal(f"{live.desired.plan.stages[0].device_name}: its account of the request cannot be true: {problem}")
            if chunk := answer.finish():
                yield chunk
            ended = _result(account, finished, "stop" if answer.stopped else REASONS.get(finished.reason, "error"))
            await self._record(ended)
            yield ended
        finally:
            if not settled:
                account.sequence.cancel()
                self._background.start(self._settle(account), f"settle sequence {account.sequence.number}")

    async def _text(self, desired: Desired) -> _Text:
        digest = Digest(desired.plan.manifest_digest)
        async with self._loading:  # one load for many requests at once
            if digest not in self._texts:
                self._texts[digest] = await asyncio.to_thread(self._load, desired)
                while len(self._texts) > TEXTS:
                    self._texts.popitem(last=False)
            self._texts.move_to_end(digest)
            return self._texts[digest]

    def _load(self, desired: Desired) -> _Text:
        manifest = self._deployments.manifest(desired)
        return _Text(manifest, prompts.load_text(self._artifacts, manifest))

    async def _settle(self, account: _Account) -> None:
        """The client has left, or the stream failed: what the sequence cost is still worth knowing."""
        try:
            finished = await _end(account.sequence)
        except FleetError:
            return  # the devices have freed it, and nobody will tell what it cost
        if finished.reason != pb.FINISH_REASON_ERROR and not implausible(finished):
            await self._record(_result(account, finished, "cancelled"))

    async def _record(self, ended: GenerateResult) -> None:
        """A store that fails must not fail the request."""
        try:
            await asyncio.to_thread(self._telemetry.record, uuid.uuid4().hex, self._now(), ended)
        except FleetError as error:
            _log.warning("a request was not recorded: %s", error.detail)


def _check_solid(desired: Desired) -> None:
    """Raises Conflict for a deployment on devices that compute nothing: there is no answer that could be true."""
    if hollow := [stage.device_name for stage in desired.plan.stages if stage.hollow]:
        raise Conflict(
            f"{desired.name} is deployed on hollow devices ({', '.join(hollow[:3])}): they compute nothing and answer no prompt",
            advice=f"deploy it on devices that compute: glmfleet sim up --devices 3, then glmfleet deploy {desired.plan.model}",
        )


async def _end(sequence: Sequence) -> pb.Finished:
    """Raises TimedOut when a sequence that was cancelled does not end."""
    try:
        async with asyncio.timeout(END_SECONDS):
            return await sequence.end()
    except TimeoutError:
        raise TimedOut(f"the sequence did not end within {END_SECONDS:.0f} s") from None


def _failure(finished: pb.Finished, desired: Desired) -> FleetError:
    """The route in it names devices by id: the head knows no names, people know no ids."""
    failure = finished.failure
    detail = failure.detail or "the pipeline failed"
    for stage in desired.plan.stages:
        detail = detail.replace(stage.device_id, stage.device_name)
    head = desired.plan.stages[0].device_name
    error = by_name(failure.code, detail, retry_after_seconds=failure.retry_after_seconds).at(head)
    if isinstance(error, Unavailable):
        error.advice = COMES_BACK
    return error


def _result(account: _Account, finished: pb.Finished, reason: FinishReason) -> GenerateResult:
    return result(
        account.desired,
        finished,
        text=account.answer.text,
        token_ids=account.answer.token_ids,
        prompt_tokens=account.prompt_tokens,
        reason=reason,
    )
