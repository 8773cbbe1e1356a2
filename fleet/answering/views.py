"""A request for an answer, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from device.text.messages import Message
from fleet.telemetry.views import FinishedRequest, FinishReason
from protos.decoding import DecodeMode
from protos.sampling import GREEDY, Sampling


@dataclass(frozen=True)
class GenerateRequest:
    """Exactly one of `prompt` (a user's turn, through the chat template), `text` (raw, no template), `messages`, `prompt_ids`."""

    model: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[str, ...] = ()  # for `prompt` and `messages`: OpenAI's objects, each as JSON
    json_schema: str = ""  # that the answer fits, as JSON
    called_tools: tuple[str, ...] = ()  # names: the answer calls one of these
    parallel_tool_calls: bool = True  # or several
    prompt_ids: tuple[int, ...] = ()
    forced_ids: tuple[int, ...] = ()
    max_tokens: int | None = None  # None: what the context leaves; 0, where something of the prompt is asked for: no answer
    sampling: Sampling = GREEDY
    left_to_model: tuple[str, ...] = ()  # sampling parameters that are the model's own, where its maker has said any
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # end the answer as the model's own ends do, also with `ignore_eos`
    min_tokens: int = 0  # before anything ends the answer but `max_tokens`
    allowed_token_ids: tuple[int, ...] | None = None  # no others come
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    bad_words: tuple[str, ...] = ()  # as the tokenizer writes them: another spelling of one may come
    chat_template_kwargs: str = ""  # for `prompt` and `messages`: a JSON object, whose values the template sees as variables
    add_generation_prompt: bool = True  # for `prompt` and `messages`
    logprobs: int | None = None  # tell each token's log probability, and those of so many likeliest
    echo: bool = False  # tell the prompt's tokens, before the answer's
    prompt_logprobs: int | None = None  # tell them with their log probabilities, and those of so many likeliest
    embedding: bool = False  # tell the prompt's
    ignore_eos: bool = False  # go on behind an end-of-sequence token, to max_tokens: for measurements
    reuse_decoded: bool = False  # inexact: see Request in device/pipeline/sequences.py
    infill: bool = False  # refuse a model that fills no blanks
    suffix: str | None = None  # of `text` or `prompt`, whose blank is before it: of models that fill blanks
    fills: tuple[tuple[int, ...], ...] = ()  # of the first blanks, known already: the one behind them is filled
    timeout_seconds: float | None = None  # from acceptance; what has not ended by then is cancelled
    # Names the request wherever and whenever it is asked again: the same name gives the same seed, and so the same answer.
    idempotency_key: str = ""
    resume_after: int = 0  # so many tokens of the answer its client has already: a chunk ends behind them


@dataclass(frozen=True)
class LikelyToken:
    """A token with the natural logarithm of the probability that the model gave it; its bytes may be a part of a character."""

    token_id: int
    text: str
    bytes: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class TokenLogprobs(LikelyToken):
    """Of a token of the answer, beside the likeliest that could have come, the likeliest first."""

    likeliest: tuple[LikelyToken, ...] = ()


Recovery: TypeAlias = Literal["exact", "fast"]


@dataclass(frozen=True)
class PromptToken:
    """A token of the prompt; `logprob` and `likeliest` as in TokenLogprobs, where they were asked for and there is one before it."""

    token_id: int
    text: str
    bytes: tuple[int, ...]
    logprob: float | None = None
    likeliest: tuple[LikelyToken, ...] = ()


@dataclass(frozen=True)
class TokenChunk:
    """Text that became certain (whole UTF-8 characters, stop strings held back) and the tokens it took."""

    text: str
    token_ids: tuple[int, ...]
    in_thought: bool = False  # the prompt has opened the model's thought: the answer, of which this is a piece, begins inside
    logprobs: tuple[TokenLogprobs, ...] = ()  # of its tokens, where they were asked for


@dataclass(frozen=True)
class PromptChunk(TokenChunk):
    """Before all others, where the prompt's tokens are asked for: it has them, and none of the answer's."""

    prompt: tuple[PromptToken, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GenerateResult(FinishedRequest):
    """A request that has ended, with its answer."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    in_thought: bool = False  # see TokenChunk
    logprobs: tuple[TokenLogprobs, ...] = ()  # of the tokens, but for the request's own forced ones, where they were asked for
    prompt: tuple[PromptToken, ...] = ()  # where it was asked for
    embedding: tuple[float, ...] = ()  # the mean of the prompt's normed last hidden rows [hidden size], where it was asked for
    reused_tokens: int = 0  # of the prompt, whose cache rows an earlier prompt had made
    # Times that its pipeline broke and another, or the same when its device was back, went on, after so many seconds without a token.
    recoveries: int = 0
    recovery_seconds: float = 0.0
    # `exact`: with the very tokens that would have come; `fast`: what follows may differ by rounding (Policy); None: nothing broke.
    recovery: Recovery | None = None
    decode: DecodeMode = "rows"
    drafted_tokens: int = 0  # proposed, and computed beside the known ones
    accepted_tokens: int = 0  # of them, those that the model chose: so many steps were saved


@dataclass(frozen=True)
class RequestView:
    """A request on its way or ended, without what was asked and answered. Times in unix seconds."""

    request_id: str
    state: str  # "accepted", "running", "recovering" (from a break to the next token), "ended"
    model: str  # as it was asked for; "": the only one
    deployment: str
    pipeline_id: str  # of the last attempt; "": none was made
    attempts: int
    client_waits: bool
    prompt_tokens: int
    completion_tokens: int  # that the client was given
    accepted_at: float
    deadline: float | None
    ended_at: float | None
    finish_reason: FinishReason | None
    detail: str  # why it failed
    began_at: float | None = None  # when a ring was given it first
    first_token_at: float | None = None  # when its client was given the first token
