"""Answering requests: prompt in, text out as it comes, its cost at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

from device.text.confined import ConfinedText
from fleet.answering import prompts
from fleet.answering.answer import Answer
from fleet.answering.ledger import Ledger, LedgerEntry
from fleet.answering.prompt_making import MadePrompt, PromptMaking
from fleet.answering.request_costs import REASONS, result
from fleet.answering.views import GenerateRequest, GenerateResult, RequestView, TokenChunk
from fleet.background import Background
from fleet.deploying.deployments import Deployments
from fleet.deploying.desired import PipelineSpec
from fleet.deploying.phase import Ready, Repairing
from fleet.deploying.pipeline import Pipeline
from fleet.deploying.stream import COMES_BACK, TokenStream
from fleet.telemetry.records import TelemetryRecords, may_pass
from fleet.telemetry.views import FinishedRequest, FinishReason
from protos.errors import Busy, Conflict, FleetError, Internal, InvalidInput, TimedOut, Unavailable
from protos.ids import Digest
from protos.manifest import Manifest
from protos.plausible import implausible
from protos.rpc_errors import as_fleet_error, from_failure
from protos.v1 import pipeline_pb2 as pb
from quantize.artifact.store import ArtifactStore

# A cancelled sequence ends with the round in flight; a ring that takes longer has stopped.
END_SECONDS = 10.0
UNRECORDED = 1024  # requests that have ended, kept while the store takes nothing
TEXTS = 8  # tokenizers kept: tens of megabytes each

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Text:
    manifest: Manifest
    model: ConfinedText


@dataclass(frozen=True)
class _Account:
    """What is needed to settle an attempt, however it ends."""

    entry: LedgerEntry
    pipeline: Pipeline
    tokens: TokenStream
    answer: Answer

    @property
    def spec(self) -> PipelineSpec:
        return self.pipeline.spec


class GenerationService:
    """An async context manager; on exit, requests whose clients have left are settled."""

    def __init__(
        self,
        deployments: Deployments,
        artifacts: ArtifactStore,
        telemetry: TelemetryRecords,
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
        self._ledger = Ledger(now=now)
        self._running: dict[str, TokenStream] = {}  # by request
        self._texts: OrderedDict[Digest, _Text] = OrderedDict()
        self._loading: dict[Digest, asyncio.Lock] = {}
        self._making = PromptMaking()
        self._unrecorded: deque[tuple[str, float, FinishedRequest]] = deque(maxlen=UNRECORDED)
        self._background = Background()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._making.__aexit__(kind, error, trace)
        for text in self._texts.values():
            text.model.close()
        await self._background.__aexit__(kind, error, trace)

    def requests(self) -> list[RequestView]:
        """Those on their way, then the last that have ended."""
        return self._ledger.views()

    def cancel(self, request_id: str) -> None:
        """Its client gets what there is, with the reason "cancelled". Raises NotFound when it has ended."""
        entry = self._ledger.find(request_id)
        entry.unwanted = True
        if (tokens := self._running.get(entry.request_id)) is not None:
            tokens.cancel()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk | GenerateResult, None]:
        """Chunks, then the result. Closing the iterator early cancels the request.

        While nothing was given yet, a pipeline that fails is followed by another of the deployment that answers. Raises NotFound (nothing
        deployed under that name), InvalidInput, Unavailable while no pipeline answers or when it fails, Busy when too many requests are
        open or the head's queue is full, TimedOut when its deadline has passed, and what else the head says.
        """
        entry = self._ledger.accept(request)
        try:
            async with contextlib.aclosing(self._answer(entry)) as parts:
                async for part in parts:
                    yield part
        except FleetError as error:
            self._ledger.end(entry, "error", error.detail)
            raise
        except Exception as error:
            self._ledger.end(entry, "error", as_fleet_error(error).detail)
            raise
        finally:
            entry.client_waits = False
            self._ledger.end(entry, "cancelled")  # unless it has ended otherwise

    async def _answer(self, entry: LedgerEntry) -> AsyncGenerator[TokenChunk | GenerateResult, None]:
        pipeline = self._deployments.choose(entry.request.model)
        while True:
            try:
                with pipeline.claimed():
                    async with contextlib.aclosing(self._attempt(entry, pipeline)) as parts:
                        async for part in parts:
                            yield part
                return
            except FleetError as error:
                other = self._another(entry) if entry.fail(error) else None
                if other is None:
                    if entry.ran:
                        await self._record(entry.request_id, _failed(entry, pipeline, self._now()))
                    raise
                _log.info("request %s goes from %s to %s: %s", entry.request_id, pipeline.spec.pipeline_id, other.spec.pipeline_id, error)
                pipeline = other

    def _another(self, entry: LedgerEntry) -> Pipeline | None:
        try:
            other = self._deployments.choose(entry.request.model, avoid=entry.tried)
        except FleetError:
            return None
        return other if isinstance(other.state, Ready) else None

    async def _attempt(self, entry: LedgerEntry, pipeline: Pipeline) -> AsyncGenerator[TokenChunk | GenerateResult, None]:
        request, spec, deployment = entry.request, pipeline.spec, pipeline.desired.name
        _check_solid(deployment, spec)
        text = await self._text(deployment, spec)
        made = await self._made(entry, text, spec)
        prompt, words = made.token_ids, text.model.words
        seed = self._fresh_seed() if request.sampling.seed is None else request.sampling.seed
        submit = prompts.submit(request, prompt, text.manifest, spec.plan.context, seed, made.rules)
        answer = Answer(words.stream(), request.stop, request.min_tokens, in_thought=words.opens_thought(prompt))
        entry.begin(deployment, spec.pipeline_id, prompt)
        # While only the coordinator's own link to a device has ended, the ring goes on.
        if isinstance(state := pipeline.state, Repairing) or not pipeline.stream.attached:
            raise Unavailable(state.detail or "the pipeline is not attached", advice=COMES_BACK, retry_after_seconds=1.0)
        account = _Account(entry, pipeline, pipeline.stream.submit(submit), answer)
        ran_before, entry.ran = entry.ran, True
        self._running[entry.request_id] = account.tokens
        if entry.unwanted:
            account.tokens.cancel()
        overdue = self._cancel_at_deadline(account)
        settled = False
        try:
            # Forced tokens are part of the answer; the head counts them, and sends only what comes after.
            if request.forced_ids and (chunk := answer.push(request.forced_ids)):
                yield _given(entry, chunk)
            while not answer.stopped and (ids := await account.tokens.take()) is not None:
                if chunk := answer.push(ids):
                    yield _given(entry, chunk)
            account.tokens.cancel()  # of use only when a stop string ended the text
            finished = await _end(account.tokens)
            settled = True
            if finished.reason == pb.FINISH_REASON_ERROR:
                failure = _failure(finished, spec)
                if isinstance(failure, Busy | InvalidInput):  # which the head says of what it does not begin
                    entry.ran = ran_before
                raise failure
            if problem := implausible(finished):
                raise Internal(f"{spec.plan.stages[0].device_name}: its account of the request cannot be true: {problem}")
            if chunk := answer.finish():
                yield _given(entry, chunk)
            ended = _result(account, finished, "stop" if answer.stopped else REASONS.get(finished.reason, "error"))
            await self._record(ended.request_id, ended)
            if overdue.is_set() and ended.finish_reason == "cancelled":
                raise TimedOut(f"the request's deadline has passed, after {len(entry.tokens)} tokens", advice="give it more time")
            self._ledger.end(entry, ended.finish_reason)
            yield ended
        finally:
            overdue.off()
            self._running.pop(entry.request_id, None)
            if not settled:
                account.tokens.cancel()
                self._background.start(self._settle(account), f"settle request {entry.request_id}")

    async def _made(self, entry: LedgerEntry, text: _Text, spec: PipelineSpec) -> MadePrompt:
        seconds = None if entry.deadline is None else max(0.0, entry.deadline - self._now())
        try:
            async with asyncio.timeout(seconds):
                return await self._making.make(text.model, entry.request, text.manifest.config, spec.plan.context)
        except TimeoutError:
            raise TimedOut("the request's deadline has passed before its prompt was made", advice="give it more time") from None

    def _cancel_at_deadline(self, account: _Account) -> _Alarm:
        def ring() -> None:
            account.entry.unwanted = True
            account.tokens.cancel()

        alarm = _Alarm(ring)
        if (deadline := account.entry.deadline) is not None:
            alarm.ring_in(deadline - self._now())
        return alarm

    async def _text(self, deployment: str, spec: PipelineSpec) -> _Text:
        digest = Digest(spec.plan.manifest_digest)
        async with self._loading.setdefault(digest, asyncio.Lock()):  # one load for many requests at once; no other model waits for it
            text = self._texts[digest] if digest in self._texts else await self._making.load(partial(self._load, deployment, spec))
            self._texts[digest] = text
            self._texts.move_to_end(digest)
            while len(self._texts) > TEXTS:
                self._loading.pop(self._texts.popitem(last=False)[0])
            return text

    def _load(self, deployment: str, spec: PipelineSpec) -> _Text:
        manifest = self._deployments.manifest(deployment, spec)
        return _Text(manifest, prompts.load_text(self._artifacts, manifest))

    async def _settle(self, account: _Account) -> None:
        """The client has left, or the stream failed: what the sequence cost is still worth knowing."""
        try:
            finished = await _end(account.tokens)
        except FleetError:
            return  # the devices have freed it, and nobody will tell what it cost
        if finished.reason != pb.FINISH_REASON_ERROR and not implausible(finished):
            ended = _result(account, finished, "cancelled")
            # With the joules of tokens that nobody waited for go those tokens.
            tokens = max(ended.completion_tokens, finished.timing.completion_tokens)
            await self._record(ended.request_id, replace(ended, completion_tokens=tokens))

    async def _record(self, request_id: str, ended: FinishedRequest) -> None:
        """A store that fails must not fail the request; what it did not take is given to it again with the next one's end."""
        self._unrecorded.append((request_id, self._now(), ended))
        while self._unrecorded:
            record = self._unrecorded.popleft()
            try:
                await asyncio.to_thread(self._telemetry.record, *record)
            except FleetError as error:
                if may_pass(error):
                    self._unrecorded.append(record)
                _log.warning("a request was not recorded: %s", error.detail)
                return


class _Alarm:
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


def _given(entry: LedgerEntry, chunk: TokenChunk) -> TokenChunk:
    entry.give(chunk.token_ids)
    return chunk


def _check_solid(deployment: str, spec: PipelineSpec) -> None:
    """Raises Conflict for a pipeline on devices that compute nothing: there is no answer that could be true."""
    if hollow := [stage.device_name for stage in spec.plan.stages if stage.hollow]:
        raise Conflict(
            f"{deployment} is deployed on hollow devices ({', '.join(hollow[:3])}): they compute nothing and answer no prompt",
            advice=f"deploy it on devices that compute: glmfleet sim up --devices 3, then glmfleet deploy {spec.plan.model}",
        )


async def _end(tokens: TokenStream) -> pb.Finished:
    """Raises TimedOut when a sequence that was cancelled does not end."""
    try:
        async with asyncio.timeout(END_SECONDS):
            return await tokens.end()
    except TimeoutError:
        raise TimedOut(f"the sequence did not end within {END_SECONDS:.0f} s") from None


def _failure(finished: pb.Finished, spec: PipelineSpec) -> FleetError:
    """What the head said, with names: it knows devices by their ids."""
    error = from_failure(finished.failure).named(spec.device_names).at(spec.plan.stages[0].device_name)
    if not finished.failure.HasField("route"):  # the release before has the route, and with it the ids, in the text
        for device, name in spec.device_names.items():
            error.cause = error.cause.replace(device, name)
    error.cause = error.cause or "the pipeline failed"
    if isinstance(error, Unavailable):
        error.advice = COMES_BACK
    return error


def _failed(entry: LedgerEntry, pipeline: Pipeline, now: float) -> FinishedRequest:
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


def _result(account: _Account, finished: pb.Finished, reason: FinishReason) -> GenerateResult:
    return result(
        account.pipeline.desired.name,
        account.spec,
        finished,
        request_id=account.entry.request_id,
        text=account.answer.text,
        token_ids=account.answer.token_ids,
        prompt_tokens=account.entry.prompt_tokens,
        reason=reason,
        in_thought=account.answer.in_thought,
    )
