"""Generation in the fleet's own shape: tokens, timings and joules."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, WrapValidator

from device.text.messages import Message, ToolCall
from fleet.answering.views import GenerateRequest, GenerateResult, PromptChunk, TokenChunk
from fleet.api.caller import FleetOfCaller
from fleet.api.closing import closing
from fleet.api.deployments import failed
from fleet.api.encode import line, plain
from fleet.api.errors import CLIENT_CLOSED_REQUEST, InvalidParameter
from fleet.api.resuming import Resumed, resumed_by
from fleet.api.sampling import left_to_model, sampling_of, telling, with_sampling
from fleet.api.sse import EVENTS, ClientGone, EventStream, ServerSentEvent, unless_gone
from fleet.service.protocol import FleetService
from protos.errors import Internal
from protos.sampling import LOGIT_BIAS, MOST_ALLOWED_TOKENS, MOST_BIASED_TOKENS, MOST_STOP_TOKENS, PARAMETERS
from protos.told import MOST_LOGPROBS

TokenId = Annotated[int, Field(ge=0, lt=1 << 32)]
TokenIds = tuple[TokenId, ...]
SomeTokenIds = Annotated[TokenIds, Field(min_length=1, max_length=MOST_ALLOWED_TOKENS)]  # none at all would leave nothing to say
StopTokenIds = Annotated[TokenIds, Field(max_length=MOST_STOP_TOKENS - 64)]  # the model's own come to them
_Bias = Annotated[float, Field(ge=LOGIT_BIAS.least, le=LOGIT_BIAS.most)]
LogitBias = Annotated[
    dict[TokenId, _Bias],
    Field(max_length=MOST_BIASED_TOKENS),
    WrapValidator(telling(f"an object of at most {MOST_BIASED_TOKENS} token ids, each with a number, {LOGIT_BIAS}")),
]
CalledTools = Annotated[tuple[str, ...], Field(max_length=128)]
MostLogprobs = Annotated[int, Field(ge=0, le=MOST_LOGPROBS)]
MaxTokens = Annotated[int, Field(ge=1, lt=1 << 32)]
MaxTokensOrNone = Annotated[int, Field(ge=0, lt=1 << 32)]  # 0: see `check_max_tokens`
MinTokens = Annotated[int, Field(ge=0, lt=1 << 32)]
# Each is looked for in each piece of the answer, or at each token.
StopString = Annotated[str, Field(max_length=1000)]
StopStrings = Annotated[tuple[StopString, ...], Field(max_length=16)]
BadWords = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...], Field(max_length=256)]


class ToolCallBody(BaseModel):
    """`arguments` is a JSON object's text; "" and null are one without any."""

    model_config = ConfigDict(extra="forbid")

    name: str
    arguments: str | None


class MessageBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant", "tool", "observation"]  # the last is GLM-4's name of "tool"
    content: str
    tool_calls: tuple[ToolCallBody, ...] = ()
    reasoning_content: str | None = None
    metadata: str | None = None
    name: str | None = None

    def message(self) -> Message:
        calls = tuple(ToolCall(call.name, call.arguments or "") for call in self.tool_calls)
        return Message(self.role, self.content, calls, self.reasoning_content, self.metadata, self.name)


@with_sampling()
class GenerateBody(BaseModel):
    """Exactly one of `prompt` (a user's turn), `text` (raw), `messages`, `prompt_ids`; `tools` as JSON texts.

    With `infill` a model that fills no blanks refuses; one that does fills the first blank of `text` or `prompt` either way, or the one
    behind those whose `fills` are given, each as token ids.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: tuple[MessageBody, ...] = ()
    tools: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None
    called_tools: CalledTools = ()
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    prompt_ids: TokenIds = ()
    forced_ids: TokenIds = ()
    max_tokens: MaxTokensOrNone | None = None
    stop: StopStrings = ()
    stop_token_ids: StopTokenIds = ()
    min_tokens: MinTokens = 0
    allowed_token_ids: SomeTokenIds | None = None
    bad_words: BadWords = ()
    logit_bias: LogitBias = {}
    logprobs: MostLogprobs | None = None
    echo: bool = False
    prompt_logprobs: MostLogprobs | None = None
    ignore_eos: bool = False
    reuse_decoded: bool = False
    infill: bool = False
    suffix: str | None = None
    fills: tuple[TokenIds, ...] = ()
    timeout_seconds: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] | None = None
    stream: bool = True

    def request(self) -> GenerateRequest:
        """Raises InvalidParameter."""
        check_max_tokens(self.max_tokens, of_prompt=self.echo or self.prompt_logprobs is not None)
        others = {"stream", "messages", "chat_template_kwargs", "json_schema", "logit_bias", *PARAMETERS}
        fields = {name: getattr(self, name) for name in type(self).model_fields if name not in others}
        return GenerateRequest(
            **fields,
            messages=tuple(each.message() for each in self.messages),
            chat_template_kwargs=json.dumps(self.chat_template_kwargs) if self.chat_template_kwargs else "",
            json_schema="" if self.json_schema is None else json.dumps(self.json_schema),
            logit_bias=tuple(self.logit_bias.items()),
            sampling=sampling_of(self),
            left_to_model=left_to_model(self),
        )


def check_max_tokens(max_tokens: int | None, *, of_prompt: bool) -> None:
    """An answer of no tokens is asked for only where something is told of the prompt. Raises InvalidParameter."""
    if max_tokens == 0 and not of_prompt:
        raise InvalidParameter("max_tokens", "max_tokens is 0: it must be at least 1", advice="0 is for what is told of a prompt")


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["generate"])

    @router.post("/generate", responses=EVENTS)
    async def generate(
        body: GenerateBody, http: Request, resumed: Resumed = Depends(resumed_by), fleet: FleetService = Depends(of_caller)
    ) -> Response:
        """Events `prompt` (where it is asked for) and `token`, then `done` (or `error`); with `stream` false what `done` holds."""
        request = resumed.of(body.request())
        if body.stream:
            return EventStream(_tokens(fleet, request), failed)
        try:
            return JSONResponse(plain(await unless_gone(http.receive, collect(fleet, request))))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    return router


async def collect(fleet: FleetService, request: GenerateRequest) -> GenerateResult:
    """The whole answer."""
    async with closing(fleet.generate(request)) as parts:
        async for part in parts:
            if isinstance(part, GenerateResult):
                return part
    raise Internal("the generation ended without a result")


async def _tokens(fleet: FleetService, request: GenerateRequest) -> AsyncGenerator[ServerSentEvent]:
    tokens = 0
    async with closing(fleet.generate(request)) as parts:
        async for part in parts:
            if isinstance(part, TokenChunk):
                tokens += len(part.token_ids)
                if tokens > request.resume_after:
                    yield ServerSentEvent(line(part), "token", tokens)
                elif isinstance(part, PromptChunk) and not request.resume_after:
                    yield ServerSentEvent(line(part), "prompt")
            else:
                yield ServerSentEvent(line(part), "done")
