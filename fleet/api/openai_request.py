"""OpenAI's request bodies: what is honoured, what is refused by name, and the request they mean to us."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from device.text.messages import Message, ToolCall
from fleet.answering.views import GenerateRequest
from fleet.api.errors import UnsupportedParameter
from fleet.api.generate import STOP_STRINGS, StopString
from fleet.api.sampling import left_to_model, sampling_of, with_sampling
from protos.sampling import PARAMETERS, Sampling

COMPLETION_MAX_TOKENS = 16  # OpenAI's default of /v1/completions; chat has none

_SEED_SPACE = 1 << 64
# Where OpenAI's API, or what vLLM's and llama.cpp's clients send to it (top_k -1 for all), differs from ours.
_DEFAULT = Sampling(temperature=1.0)
_BOUNDS = {
    "temperature": replace(PARAMETERS["temperature"].bounds, most=2),
    "top_k": replace(PARAMETERS["top_k"].bounds, least=-1),
    "seed": replace(PARAMETERS["seed"].bounds, least=1 - _SEED_SPACE),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_TokenId = Annotated[int, Field(ge=0, lt=1 << 32)]


class StreamOptions(BaseModel):
    include_usage: bool = False


@with_sampling(_BOUNDS, nullable=True)
class _Sampled(BaseModel):
    """What chat and plain completions have in common. Unknown fields are kept, to be refused when they would change the answer."""

    model_config = ConfigDict(extra="allow")

    model: str
    stop: StopString | Annotated[list[StopString], Field(max_length=STOP_STRINGS)] | None = None
    ignore_eos: bool | None = None  # vLLM's, as its and others' benchmarks send it
    reuse_decoded: bool | None = None  # ours: an earlier turn's answer need not be prefilled, at the price of an inexact text
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def _request(self, max_tokens: int | None, **prompt: Any) -> GenerateRequest:
        if self.n not in (None, 1):
            raise UnsupportedParameter("n", "only n=1 is supported: one answer a request")
        refuse_unsupported(self.model_extra or {})
        sampling = sampling_of(self, _DEFAULT)
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerateRequest(
            model=self.model,
            max_tokens=max_tokens,
            sampling=replace(sampling, top_k=max(0, sampling.top_k), seed=None if sampling.seed is None else sampling.seed % _SEED_SPACE),
            left_to_model=left_to_model(self),
            stop=tuple(text for text in stop if text),
            ignore_eos=bool(self.ignore_eos),
            reuse_decoded=bool(self.reuse_decoded),
            **prompt,
        )


class ContentPart(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


class FunctionCall(BaseModel):
    name: str
    arguments: str


class CallBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: list[CallBody] | None = None


class Function(BaseModel):
    """What a tool is; `parameters` and all else go to the template as they are."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Tool(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: Function


class ChatBody(_Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Any = None

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Of the tools that the model is told of."""
        return () if self.tool_choice == "none" else tuple(tool.function.name for tool in self.tools or ())

    def request(self) -> GenerateRequest:
        """Raises UnsupportedParameter."""
        messages = tuple(_message(message, number) for number, message in enumerate(self.messages))
        if self.tool_choice not in (None, "none", "auto"):
            raise UnsupportedParameter("tool_choice", "only tool_choice auto or none is supported")
        tools = tuple(tool.model_dump_json() for tool in self.tools or ()) if self.tool_names else ()
        return self._request(self.max_completion_tokens or self.max_tokens, messages=messages, tools=tools)


class CompletionBody(_Sampled):
    """POST /v1/completions."""

    prompt: str | list[_TokenId] | list[str] | list[list[_TokenId]]
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None

    def request(self) -> GenerateRequest:
        """Raises UnsupportedParameter."""
        prompt: Any = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise UnsupportedParameter("prompt", "only one prompt a request is supported")
            prompt = prompt[0]
        given = {"text": prompt} if isinstance(prompt, str) else {"prompt_ids": tuple(prompt)}
        return self._request(self.max_tokens or COMPLETION_MAX_TOKENS, **given)


def refuse_unsupported(extra: Mapping[str, Any]) -> None:
    """Raises UnsupportedParameter for a field that would change the answer; others are fine, and so is a value that asks for nothing."""
    for name, harmless in _CHANGES_THE_ANSWER.items():
        value = extra.get(name)
        if value is not None and not harmless(value):
            raise UnsupportedParameter(name, f"{name} is not supported")


def _empty(value: Any) -> bool:
    return not value


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _plain_text(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type", "text") == "text"


# Field: does this value ask for nothing? Whatever is not here (user, metadata, store, service_tier ...) does not change the text.
_CHANGES_THE_ANSWER: dict[str, Callable[[Any], bool]] = {
    "functions": _empty,
    "function_call": _one_of("none", "auto"),
    "response_format": _plain_text,
    "logprobs": _one_of(False),
    "top_logprobs": _one_of(0),
    "logit_bias": _empty,
    "presence_penalty": _one_of(0),
    "frequency_penalty": _one_of(0),
    "repetition_penalty": _one_of(1, 0),
    "min_tokens": _one_of(0),
    "guided_json": _empty,
    "guided_regex": _empty,
    "guided_grammar": _empty,
    "grammar": _empty,
    "modalities": _one_of(["text"], []),
    "audio": _empty,
    "web_search_options": lambda _value: False,
    "echo": _one_of(False),
    "suffix": _empty,
    "best_of": _one_of(1),
}


def _message(message: ChatMessage, number: int) -> Message:
    where = f"messages[{number}]"
    role = _ROLES.get(message.role)
    extra = message.model_extra or {}
    if role is None:
        raise UnsupportedParameter(f"{where}.role", f"role {message.role!r} is not supported: only {', '.join(_ROLES)}")
    if extra.get("function_call"):
        raise UnsupportedParameter(f"{where}.function_call", "function_call is not supported: use tool_calls")
    calls = tuple(ToolCall(call.function.name, call.function.arguments) for call in message.tool_calls or ())
    return Message(role, _text_of(message.content, where), calls)


def _text_of(content: str | Sequence[ContentPart] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type != "text" or part.text is None:
            raise UnsupportedParameter(f"{where}.content", f"content of type {part.type!r} is not supported: only text")
    return "".join(part.text or "" for part in content)
