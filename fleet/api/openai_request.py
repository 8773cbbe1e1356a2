"""OpenAI's request bodies, the fields that are honoured, and the request they mean to us."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fleet.answering.views import GenerateRequest
from fleet.api.errors import InvalidParameter, UnsupportedParameter
from fleet.api.generate import (
    BadWords,
    LogitBias,
    MaxTokens,
    MaxTokensOrNone,
    MinTokens,
    MostLogprobs,
    SomeTokenIds,
    StopString,
    StopStrings,
    StopTokenIds,
    TokenId,
    check_max_tokens,
)
from fleet.api.openai_fields import CHAT, COMPLETION, STREAM_OPTIONS, Others
from fleet.api.openai_formats import ResponseFormat, called_tools, schema_of
from fleet.api.openai_messages import ChatMessage, Tool, Tools, told, tools_of
from fleet.api.sampling import left_to_model, sampling_of, with_sampling
from protos.sampling import PARAMETERS, Sampling

COMPLETION_MAX_TOKENS = 16  # OpenAI's default of /v1/completions; chat has none

MOST_CHOICES = 16  # of one request: each holds a slot of the pipeline
MOST_RATED = 256  # prompts of one request that are read and not answered: they run a few at a time
Inputs = str | list[TokenId] | list[str] | list[list[TokenId]]
SEED_SPACE = 1 << 64
# Where OpenAI's API, or what vLLM's and llama.cpp's clients send to it (top_k -1 for all), differs from ours.
_DEFAULT = Sampling(temperature=1.0)
BOUNDS = {
    "temperature": replace(PARAMETERS["temperature"].bounds, most=2),
    "top_k": replace(PARAMETERS["top_k"].bounds, least=-1),
    "seed": replace(PARAMETERS["seed"].bounds, least=1 - SEED_SPACE),
}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None


@with_sampling(BOUNDS, nullable=True)
class _Sampled(BaseModel):
    """What chat and plain completions have in common. Other fields are kept, for `fleet.api.openai_fields` to judge."""

    model_config = ConfigDict(extra="allow")
    OTHERS: ClassVar[Others]

    model: str
    stop: StopString | StopStrings | None = None
    # Beyond OpenAI's: vLLM's, …
    stop_token_ids: StopTokenIds | None = None
    min_tokens: MinTokens | None = None
    allowed_token_ids: SomeTokenIds | None = None
    bad_words: BadWords | None = None
    logit_bias: LogitBias | None = None
    ignore_eos: bool | None = None
    reuse_decoded: bool | None = None  # … and ours: an earlier turn's answer need not be prefilled, at the price of an inexact text
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None  # answers of one prompt, whose cache rows they share
    best_of: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def _choices(self, request: GenerateRequest) -> list[GenerateRequest]:
        """One for each of `n` answers: with a seed, the next choice has the next one."""
        seed = request.sampling.seed
        seeds = [None if seed is None else (seed + index) % SEED_SPACE for index in range(self.n or 1)]
        return [replace(request, sampling=replace(request.sampling, seed=one)) for one in seeds]

    def _request(self, max_tokens: int | None, **prompt: Any) -> GenerateRequest:
        if self.best_of not in (None, self.n or 1):
            raise UnsupportedParameter("best_of", "best_of other than n is not supported: all answers are told", "leave best_of out")
        self.OTHERS.check(self)
        if self.stream_options is not None:
            STREAM_OPTIONS.check(self.stream_options, "stream_options.")
        sampling = sampling_of(self, _DEFAULT)
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or ()
        return GenerateRequest(
            model=self.model,
            max_tokens=max_tokens,
            sampling=replace(sampling, top_k=max(0, sampling.top_k), seed=None if sampling.seed is None else sampling.seed % SEED_SPACE),
            left_to_model=left_to_model(self),
            stop=tuple(text for text in stop if text),
            stop_token_ids=self.stop_token_ids or (),
            min_tokens=self.min_tokens or 0,
            allowed_token_ids=self.allowed_token_ids,
            bad_words=self.bad_words or (),
            logit_bias=tuple((self.logit_bias or {}).items()),
            ignore_eos=bool(self.ignore_eos),
            reuse_decoded=bool(self.reuse_decoded),
            **prompt,
        )


class Thinking(BaseModel):
    """As the APIs of GLM's makers have it."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["enabled", "disabled"]


class ChatBody(_Sampled):
    """POST /v1/chat/completions."""

    OTHERS = CHAT

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    tools: Tools | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    # For the template: its variables, and short forms of two of them.
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking: Thinking | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    add_generation_prompt: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: MostLogprobs | None = None

    def requests(self) -> list[GenerateRequest]:
        """One for each choice. Raises InvalidParameter."""
        return self._choices(self.request())

    def request(self) -> GenerateRequest:
        """Raises InvalidParameter."""
        messages = told(self.messages)
        if self.top_logprobs and not self.logprobs:
            raise InvalidParameter("top_logprobs", "top_logprobs is given without logprobs", advice="send logprobs true with it")
        variables, tools = self._variables(), self._told_tools()
        return self._request(
            self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            messages=messages,
            tools=tuple(tool.model_dump_json() for tool in tools),
            json_schema=schema_of(self.response_format),
            called_tools=called_tools(self.tool_choice, [tool.function.name for tool in tools]),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            chat_template_kwargs=json.dumps(variables) if variables else "",
            add_generation_prompt=self.add_generation_prompt is not False,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    def _told_tools(self) -> Sequence[Tool]:
        return () if self.tool_choice == "none" else tools_of(self.messages, self.tools or ())

    def _variables(self) -> dict[str, Any]:
        """Of the template. `reasoning_effort` also says whether to think at all, unless another field does, as in vLLM."""
        variables = dict(self.chat_template_kwargs or {})

        def tell(field: str, name: str, value: Any) -> None:
            if variables.setdefault(name, value) != value:
                raise UnsupportedParameter(field, f"{field} makes {name} {json.dumps(value)}, and another field makes it another")

        if self.enable_thinking is not None:
            tell("enable_thinking", "enable_thinking", self.enable_thinking)
        if self.thinking is not None:
            tell("thinking", "enable_thinking", self.thinking.type == "enabled")
        if self.reasoning_effort is not None:
            tell("reasoning_effort", "reasoning_effort", self.reasoning_effort)
            variables.setdefault("enable_thinking", self.reasoning_effort != "none")
        return variables


class CompletionBody(_Sampled):
    """POST /v1/completions."""

    OTHERS = COMPLETION

    prompt: Inputs
    suffix: str | None = None
    echo: bool | None = None
    max_tokens: MaxTokensOrNone | None = None
    logprobs: Annotated[MostLogprobs | None, BeforeValidator(lambda given: None if given is False else given)] = None

    def requests(self) -> list[GenerateRequest]:
        """Those of the first prompt's choices, then those of the next. Raises InvalidParameter."""
        return [choice for request in self._of_prompts() for choice in self._choices(request)]

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Each a text or token ids."""
        return each_input(self.prompt)

    def _of_prompts(self) -> list[GenerateRequest]:
        most = MOST_RATED if self.max_tokens == 0 else MOST_CHOICES
        if len(self.prompts) * (self.n or 1) > most:
            raise InvalidParameter("prompt", f"prompts and n make more than {most} answers", advice="send fewer at once")
        if not all(self.prompts):
            raise InvalidParameter("prompt", "prompt is empty: it must be a string or a list of token ids, with something in it")
        check_max_tokens(self.max_tokens, of_prompt=bool(self.echo))
        told = {"echo": True, "prompt_logprobs": self.logprobs} if self.echo else {}
        return [
            self._request(
                COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
                logprobs=self.logprobs,
                suffix=self.suffix or None,
                **told,
                **form_of(one),
            )
            for one in self.prompts
        ]


def each_input(given: Any) -> Sequence[str | list[int]]:
    """Of `Inputs`, each a text or token ids."""
    alone = isinstance(given, str) or not given or isinstance(given[0], int)
    found: Sequence[str | list[int]] = [given] if alone else given
    return found


def form_of(one: str | list[int]) -> dict[str, Any]:
    """The field of GenerateRequest that it is."""
    return {"text": one} if isinstance(one, str) else {"prompt_ids": tuple(one)}
