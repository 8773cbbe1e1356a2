"""Answering requests: prompt in, text out as it comes, its cost at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

from device.text.confined import ConfinedText
from fleet.answering import prompts
from fleet.answering.answer import Answer
from fleet.answering.course import MOVING_SECONDS, Course, seed_of
from fleet.answering.endings import Alarm, GaveWay, check_solid, failed, failure_of, overdue, wait_end
from fleet.answering.ledger import Ledger, LedgerEntry
from fleet.answering.prompt_making import MadePrompt, PromptMaking
from fleet.answering.request_costs import REASONS, stage_shares
from fleet.answering.views import GenerateRequest, GenerateResult, RequestView, TokenChunk
from fleet.background import Background
from fleet.deploying.deployments import Deployments
from fleet.deploying.desired import PipelineSpec
from fleet.deploying.phase import Ready, Repairing
from fleet.deploying.pipeline import Pipeline
from fleet.deploying.stream import COMES_BACK, Token, TokenStream
from fleet.telemetry.records import TelemetryRecords, may_pass
from fleet.telemetry.views import EndedRequest, FinishedRequest, FinishReason, RequestObserver, StageShare
from protos.errors import Busy, FleetError, Internal, InvalidInput, TimedOut, Unavailable
from protos.ids import Digest
from protos.manifest import Manifest
from protos.plausible import implausible
from protos.rpc_errors import as_fleet_error
from protos.silence import RECOVERY_SECONDS
from protos.v1 import pipeline_pb2 as pb
from quantize.artifact.store import ArtifactStore

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
    course: Course

    def result(self, finished: pb.Finished, reason: FinishReason) -> GenerateResult:
        return self.course.result(self.entry, self.pipeline, self.tokens, finished, reason)

    def shares(self, finished: pb.Finished) -> tuple[StageShare, ...]:
        return stage_shares(self.pipeline.spec.plan.stages, finished.usage)


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
        recovery_seconds: float = RECOVERY_SECONDS,
        observers: Sequence[RequestObserver] = (),
    ) -> None:
        """`now` in unix seconds; `recovery_seconds` without a pipeline that answers end a request whose ring broke."""
        self._recovery_seconds = recovery_seconds
        self._observers = observers
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

        When the ring that answers it breaks, another pipeline of the deployment goes on, or the same one when it answers again: the tokens
        that were given are decoded once more, and those that follow are the ones that would have come. Raises NotFound (nothing deployed
        under that name), InvalidInput, Unavailable while no pipeline answers, or when none does for too long, Busy when too many requests
        are open or the head's queue is full, TimedOut when its deadline has passed, and what else the head says.
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
        pipeline = await self._first(entry)
        course: Course | None = None
        while True:
            try:
                with pipeline.claimed():
                    course = course or await self._course(entry, pipeline)
                    async with contextlib.aclosing(self._attempt(entry, pipeline, course)) as parts:
                        async for part in parts:
                            yield part
                return
            except GaveWay:  # its reader takes tokens again
                continue
            except FleetError as error:
                other = await self._goes_on(entry, course, error) if entry.fail(error) else None
                if other is None:
                    if entry.ran:
                        await self._record(entry, failed(entry, pipeline, self._now()))
                    if course is None or not course.recovering:
                        raise
                    if entry.deadline is not None and self._now() >= entry.deadline:
                        raise overdue(entry) from error
                    if not entry.unwanted:
                        raise
                    for part in self._broken_off(entry, pipeline, course, "cancelled"):
                        yield part
                    return
                _log.info("request %s goes from %s to %s: %s", entry.request_id, pipeline.spec.pipeline_id, other.spec.pipeline_id, error)
                pipeline = other

    async def _first(self, entry: LedgerEntry) -> Pipeline:
        """Raises as Deployments.choose; a deployment that is about to answer elsewhere is waited for."""
        give_up = asyncio.get_running_loop().time() + MOVING_SECONDS
        while True:
            try:
                return self._deployments.choose(entry.request.model)
            except Unavailable:
                left = give_up - asyncio.get_running_loop().time()
                if left <= 0 or entry.unwanted or not self._deployments.is_moving(entry.request.model):
                    raise
                await self._deployments.changed_within(min(left, 1.0))

    async def _goes_on(self, entry: LedgerEntry, course: Course | None, error: FleetError) -> Pipeline | None:
        """The pipeline that goes on with a request whose own has failed it: another that answers now, or, where a ring had begun it, the
        first that does. None when none does in time, or it is not wanted any more."""
        clock = asyncio.get_running_loop().time
        if course is not None and entry.ran:
            course.broke(clock())
        with contextlib.suppress(FleetError):
            if (other := self._that_answers(entry, course, avoid=entry.tried)) is not None:
                return other
        if course is None:
            return None
        if course.broke_at is not None:
            give_up = course.broke_at + self._recovery_seconds
        elif self._deployments.is_moving(entry.deployment or entry.request.model):
            give_up = clock() + MOVING_SECONDS
        else:
            return None
        if entry.deadline is not None:
            give_up = min(give_up, clock() + entry.deadline - self._now())
        if clock() >= give_up:
            return None
        await asyncio.sleep(course.pause_seconds(error))
        while not entry.unwanted and (left := give_up - clock()) > 0:
            try:
                if (found := self._that_answers(entry, course)) is not None:
                    return found
            except Unavailable:  # it is being deployed anew
                pass
            except FleetError:  # it was taken down
                return None
            await self._deployments.changed_within(min(left, 1.0))
        return None

    def _that_answers(self, entry: LedgerEntry, course: Course | None, *, avoid: frozenset[str] = frozenset()) -> Pipeline | None:
        """Of the same version of the model, once an answer has begun. Raises as Deployments.choose."""
        found = self._deployments.choose(entry.deployment or entry.request.model, avoid=avoid)
        same = course is None or found.spec.plan.manifest_digest == course.version
        return found if same and found.stream.attached and isinstance(found.state, Ready) else None

    async def _course(self, entry: LedgerEntry, pipeline: Pipeline) -> Course:
        request, deployment, spec = entry.request, pipeline.desired.name, pipeline.spec
        check_solid(deployment, spec)
        text = await self._text(deployment, spec)
        made = await self._made(entry, text, spec)
        seed, words = seed_of(request, self._fresh_seed), text.model.words
        answer = Answer(words.stream(), request.stop, request.min_tokens, in_thought=words.opens_thought(made.token_ids))
        return Course(text.manifest, made, seed, words, answer, asyncio.get_running_loop().time())

    async def _attempt(self, entry: LedgerEntry, pipeline: Pipeline, course: Course) -> AsyncGenerator[TokenChunk | GenerateResult, None]:
        request, spec, deployment, answer = entry.request, pipeline.spec, pipeline.desired.name, course.answer
        if (reason := course.complete(request, spec.plan.context)) is not None:
            for part in self._broken_off(entry, pipeline, course, reason):
                yield part
            return
        submit = course.submit(request, spec.plan.context, pipeline.desired.policy.most_replayed(spec.plan))
        entry.begin(deployment, spec.pipeline_id, course.made.token_ids)
        # While only the coordinator's own link to a device has ended, the ring goes on.
        if isinstance(state := pipeline.state, Repairing) or not pipeline.stream.attached:
            raise Unavailable(state.detail or "the pipeline is not attached", advice=COMES_BACK, retry_after_seconds=1.0)
        account = _Account(entry, pipeline, pipeline.stream.submit(submit, course.made.vocabulary), course)
        ran_before, entry.ran = entry.ran, True
        self._running[entry.request_id] = account.tokens
        if entry.unwanted:
            account.tokens.cancel()
        alarm = self._cancel_at_deadline(account)
        settled = False
        try:
            # Forced tokens are part of the answer; the head counts them, and sends only what comes after.
            if request.forced_ids and not answer.token_ids:
                for chunk in course.came([Token(one) for one in request.forced_ids], request.resume_after):
                    yield _given(entry, chunk)
            while not answer.stopped and (tokens := await account.tokens.take()) is not None:
                course.goes_on(asyncio.get_running_loop().time())
                for chunk in (*course.of_prompt(request, account.tokens), *course.came(tokens, request.resume_after)):
                    yield _given(entry, chunk)
            account.tokens.cancel()  # of use only when a stop string ended the text
            finished = await wait_end(account.tokens)
            settled = True
            if finished.reason == pb.FINISH_REASON_ERROR:
                failure = failure_of(finished, spec)
                if isinstance(failure, Busy | InvalidInput):  # which the head says of what it does not begin
                    entry.ran = ran_before
                raise failure
            if account.tokens.gave_way and finished.reason == pb.FINISH_REASON_CANCELLED and not entry.unwanted:
                course.spent += finished.usage
                raise GaveWay
            if problem := implausible(finished):
                raise Internal(f"{spec.plan.stages[0].device_name}: its account of the request cannot be true: {problem}")
            if finished.reason == pb.FINISH_REASON_LENGTH:  # maybe of no tokens
                for chunk in course.of_prompt(request, account.tokens):
                    yield _given(entry, chunk)
            if last := answer.finish():
                yield _given(entry, last)
            ended = account.result(finished, "stop" if answer.stopped else REASONS.get(finished.reason, "error"))
            await self._record(entry, ended, account.shares(finished))
            if alarm.is_set() and ended.finish_reason == "cancelled":
                raise overdue(entry)
            self._ledger.end(entry, ended.finish_reason)
            yield ended
        finally:
            alarm.off()
            self._running.pop(entry.request_id, None)
            if not settled:
                account.tokens.cancel()
                self._background.start(self._settle(account), f"settle request {entry.request_id}")

    def _broken_off(
        self, entry: LedgerEntry, pipeline: Pipeline, course: Course, reason: FinishReason
    ) -> Iterator[TokenChunk | GenerateResult]:
        """The end of an answer of which no ring will tell what it cost."""
        if chunk := course.answer.finish():
            yield _given(entry, chunk)
        answer, lost = course.answer, failed(entry, pipeline, self._now())
        self._ledger.end(entry, reason)
        yield GenerateResult(
            **{**vars(lost), "finish_reason": reason},
            request_id=entry.request_id,
            text=answer.text,
            token_ids=tuple(answer.token_ids),
            in_thought=answer.in_thought,
            logprobs=tuple(answer.logprobs),
            prompt=course.prompt,
            recoveries=course.recoveries,
            recovery_seconds=course.recovery_seconds,
            recovery=course.recovery(),
            decode=pipeline.spec.plan.decode,
        )

    async def _made(self, entry: LedgerEntry, text: _Text, spec: PipelineSpec) -> MadePrompt:
        seconds = None if entry.deadline is None else max(0.0, entry.deadline - self._now())
        try:
            async with asyncio.timeout(seconds):
                return await self._making.make(text.model, entry.request, text.manifest.config, spec.plan.context)
        except TimeoutError:
            raise TimedOut("the request's deadline has passed before its prompt was made", advice="give it more time") from None

    def _cancel_at_deadline(self, account: _Account) -> Alarm:
        def ring() -> None:
            account.entry.unwanted = True
            account.tokens.cancel()

        alarm = Alarm(ring)
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
            finished = await wait_end(account.tokens)
        except FleetError:
            return  # the devices have freed it, and nobody will tell what it cost
        if finished.reason != pb.FINISH_REASON_ERROR and not implausible(finished):
            ended = account.result(finished, "cancelled")
            # With the joules of tokens that nobody waited for go those tokens.
            tokens = max(ended.completion_tokens, finished.timing.completion_tokens)
            await self._record(account.entry, replace(ended, completion_tokens=tokens), account.shares(finished))

    async def _record(self, entry: LedgerEntry, ended: FinishedRequest, stages: tuple[StageShare, ...] = ()) -> None:
        """A store that fails must not fail the request; what it did not take is given to it again with the next one's end."""
        recoveries = (ended.recoveries, ended.recovery_seconds) if isinstance(ended, GenerateResult) else (0, 0.0)
        told = EndedRequest(entry.request_id, entry.accepted_at, self._now(), ended, stages, *recoveries)
        for observer in self._observers:
            observer.ended(told)
        self._unrecorded.append((told.request_id, told.ended_at, ended))
        while self._unrecorded:
            record = self._unrecorded.popleft()
            try:
                await asyncio.to_thread(self._telemetry.record, *record)
            except FleetError as error:
                if may_pass(error):
                    self._unrecorded.append(record)
                _log.warning("a request was not recorded: %s", error.detail)
                return


def _given(entry: LedgerEntry, chunk: TokenChunk) -> TokenChunk:
    entry.give(chunk.token_ids)
    return chunk
