"""What of a request stays the same over its attempts, so that another ring gives the very tokens that the first would have given."""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from device.text.words import Words
from fleet.answering import logprobs, prompts, request_costs
from fleet.answering.answer import Answer
from fleet.answering.ledger import LedgerEntry
from fleet.answering.prompt_making import MadePrompt
from fleet.answering.views import GenerateRequest, GenerateResult, PromptChunk, PromptToken, Recovery, TokenChunk, TokenLogprobs
from fleet.deploying.pipeline import Pipeline
from fleet.deploying.stream import Token, TokenStream
from fleet.telemetry.views import FinishReason
from protos.errors import FleetError, Internal, InvalidInput, TemporaryError
from protos.ids import Digest
from protos.manifest import Manifest
from protos.v1 import pipeline_pb2 as pb
from protos.v1 import telemetry_pb2

# A request whose ring broke waits RECOVERY_SECONDS (protos/silence.py). So long one that no ring has begun, where its pipeline is just
# being moved: a load takes some seconds.
MOVING_SECONDS = 30.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0


def seed_of(request: GenerateRequest, fresh_seed: Callable[[], int]) -> int:
    """By which the request is sampled: its own, or the one of its key, whoever computes it, or any. Raises InvalidInput for an answer that
    is to be resumed and that nobody can compute again."""
    if request.sampling.seed is not None:
        return request.sampling.seed
    if request.idempotency_key:
        digest = hashlib.sha256(b"glmfleet seed of " + request.idempotency_key.encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1  # 63 bits, as the others
    if request.resume_after and request.sampling.temperature > 0.0:
        raise InvalidInput(
            "an answer that was sampled without a seed can be resumed only by the Idempotency-Key that it was asked with",
            advice="send the same Idempotency-Key with the first request and with each that resumes it",
        )
    return fresh_seed()


@dataclass
class Course:
    """The prompt's tokens, the seed, and the answer so far. Times on one monotonic clock, in seconds."""

    manifest: Manifest
    made: MadePrompt
    seed: int
    words: Words
    answer: Answer
    began_at: float
    first_token_at: float | None = None
    key: bytes = field(default_factory=partial(secrets.token_bytes, 16))  # see pipeline.proto, Submit
    spent: list[telemetry_pb2.StageUsage] = field(default_factory=list)  # of attempts that gave way to others
    recoveries: int = 0  # breaks after which tokens came again
    recovery_seconds: float = 0.0  # from such breaks to the next token
    broke_at: float | None = None  # None: it goes on
    prompt: tuple[PromptToken, ...] = ()  # once it was told
    _breaks_since_token: int = 0  # breaks since the last token
    _may_differ: bool = False  # this attempt
    _differs: bool = False

    @property
    def version(self) -> Digest:
        return self.manifest.digest

    def submit(self, request: GenerateRequest, context: int, most_replayed: int | None = None) -> pb.Submit:
        """What a head is told: the tokens that came are forced, which is exact (pipeline.proto, Submit), unless more than `most_replayed`
        would have to be decoded again. Raises InvalidInput."""
        begun = replace(request, forced_ids=tuple(self.answer.token_ids)) if self.answer.token_ids else request
        begun = replace(begun, prompt_logprobs=None) if self.prompt else begun  # they have come
        message = prompts.submit(begun, self.made.token_ids, self.manifest, context, self.seed, self.made.rules)
        message.key = self.key
        self._may_differ = False
        if self.recovering and most_replayed is not None and len(self.answer.token_ids) > most_replayed:
            self._may_differ = True
            message.most_replayed = most_replayed
        return message

    def recovery(self, forced_prefilled: int = 0) -> Recovery | None:
        """How it went on where its ring broke. `fast`: some of its tokens were prefilled, in the last attempt so many, or may have been."""
        return ("fast" if self._differs or forced_prefilled else "exact") if self.recoveries else None

    def of_prompt(self, request: GenerateRequest, came: TokenStream) -> Iterator[TokenChunk]:
        """A chunk with the prompt's tokens, once, where they are asked for. Raises Internal where not all has come that was asked for."""
        if not self.prompt and (request.echo or request.prompt_logprobs is not None):
            self.prompt = logprobs.of_prompt(self.words, self.made.token_ids, came.prompt_logprobs)
            yield PromptChunk("", (), self.answer.in_thought, prompt=self.prompt)

    def came(self, tokens: Sequence[Token], cut_after: int) -> Iterator[TokenChunk]:
        """The answer grows by these; none of its chunks begins before its token `cut_after` and ends behind."""
        known = max(0, cut_after - len(self.answer.token_ids))
        for part in (tokens[:known], tokens[known:]):
            if part and (chunk := self.answer.push((one.id for one in part), self.logprobs(part))):
                yield chunk

    def logprobs(self, tokens: Sequence[Token]) -> list[TokenLogprobs]:
        """Of those tokens that the head told them of."""
        return [logprobs.told(self.words, one.id, one.logprobs) for one in tokens if one.logprobs is not None]

    def complete(self, request: GenerateRequest, context: int) -> FinishReason | None:
        """How the answer has ended already, so that nothing is left to ask for: only word of its end was lost."""
        if self.answer.stopped:
            return "stop"
        room = context - len(self.made.token_ids)
        most = room if request.max_tokens is None else min(request.max_tokens, room)
        return "length" if self.recovering and most and len(self.answer.token_ids) >= most else None

    def result(
        self, entry: LedgerEntry, pipeline: Pipeline, came: TokenStream, finished: pb.Finished, reason: FinishReason
    ) -> GenerateResult:
        """Of what came of an attempt, and ended so. Raises Internal for what cannot be an embedding."""
        finished.usage.extend(self.spent)
        if came.embedding and not (len(came.embedding) == self.manifest.config.hidden_size and all(map(math.isfinite, came.embedding))):
            raise Internal("the embedding is not of finite numbers, one for each of the model's hidden size")
        told = replace(
            request_costs.result(
                pipeline.desired.name,
                pipeline.spec,
                finished,
                request_id=entry.request_id,
                text=self.answer.text,
                token_ids=self.answer.token_ids,
                prompt_tokens=entry.prompt_tokens,
                reason=reason,
                in_thought=self.answer.in_thought,
                logprobs=self.answer.logprobs,
            ),
            prompt=self.prompt,
            embedding=came.embedding,
        )
        if not (self.recoveries or self.spent) or self.first_token_at is None:
            return told
        # The head's seconds are those of the last attempt.
        return replace(
            told,
            ttft_seconds=self.first_token_at - self.began_at,
            total_seconds=asyncio.get_running_loop().time() - self.began_at,
            recoveries=self.recoveries,
            recovery_seconds=self.recovery_seconds,
            recovery=self.recovery(finished.timing.forced_prefilled),
        )

    @property
    def recovering(self) -> bool:
        return self.broke_at is not None

    def broke(self, now: float) -> None:
        # Of this attempt tokens came, and it ended without telling whether any were prefilled.
        self._differs |= self._may_differ and not self._breaks_since_token
        self._breaks_since_token += 1
        if self.broke_at is None:
            self.broke_at = now

    def goes_on(self, now: float) -> None:
        """Tokens came."""
        self.first_token_at = now if self.first_token_at is None else self.first_token_at
        self._breaks_since_token = 0
        if self.broke_at is not None:
            self.recoveries += 1
            self.recovery_seconds += now - self.broke_at
            self.broke_at = None

    def pause_seconds(self, error: FleetError) -> float:
        """Before the next attempt: a ring that breaks again and again is not asked without end, and nobody who says when before that."""
        asked = error.retry_after_seconds if isinstance(error, TemporaryError) else 0.0
        return min(max(asked, FIRST_PAUSE_SECONDS * 2.0 ** min(self._breaks_since_token - 1, 10)), LONGEST_PAUSE_SECONDS)
