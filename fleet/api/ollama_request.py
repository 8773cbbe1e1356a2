"""Ollama's request bodies, the fields that are honoured, and the request they mean to us."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from device.text.messages import Message, ToolCall
from fleet.answering.views import GenerateRequest
from fleet.api.errors import InvalidParameter, UnsupportedParameter
from fleet.api.generate import MostLogprobs, StopString, StopStrings
from fleet.api.media import refuse_media
from fleet.api.ollama_fields import CALL, CHAT, EMBED, FUNCTION, GENERATE, MESSAGE, OPTIONS
from fleet.api.openai_embeddings import MOST_INPUTS, embedding_requests
from fleet.api.openai_fields import Others
from fleet.api.openai_messages import Tools
from fleet.api.openai_request import SEED_SPACE
from fleet.api.problems import shown
from fleet.api.sampling import left_to_model, sampling_of, with_sampling
from protos.sampling import PARAMETERS, Sampling

# Ollama's, where neither the request nor the model's maker says anything (docs/modelfile).
DEFAULT = Sampling(temperature=0.8, top_k=40, top_p=0.9)
LATEST = ":latest"  # what its clients put behind a name without a tag
_BOUNDS = {
    "top_k": replace(PARAMETERS["top_k"].bounds, least=-1),
    "seed": replace(PARAMETERS["seed"].bounds, least=1 - SEED_SPACE),
}
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


@with_sampling(_BOUNDS, nullable=True)
class OllamaOptions(BaseModel):
    """`num_predict` below 1 is what the context leaves. A `repeat_penalty` counts the whole prompt and answer: `repeat_last_n` is -1 for
    that, or 0 for none."""

    model_config = ConfigDict(extra="allow")

    num_predict: Annotated[int, Field(ge=-2, lt=1 << 32)] | None = None
    stop: StopString | StopStrings | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    repeat_last_n: Literal[-1, 0] | None = None

    def part(self) -> dict[str, Any]:
        """Of GenerateRequest. Raises InvalidParameter."""
        OPTIONS.check(self, "options.")
        sampling, left = sampling_of(self, DEFAULT), left_to_model(self)
        if self.repeat_penalty is not None:
            if "repetition_penalty" not in left:
                raise InvalidParameter("options.repeat_penalty", "options.repeat_penalty and repetition_penalty are the same: send one")
            sampling = replace(sampling, repetition_penalty=self.repeat_penalty)
            left = tuple(name for name in left if name != "repetition_penalty")
        if self.repeat_last_n == 0:
            sampling = replace(sampling, repetition_penalty=1.0)
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or ()
        seed = None if sampling.seed in (None, -1) else sampling.seed % SEED_SPACE
        return {
            "sampling": replace(sampling, top_k=max(0, sampling.top_k), seed=seed),
            "left_to_model": left,
            "stop": tuple(text for text in stop if text),
            "max_tokens": self.num_predict if self.num_predict and self.num_predict > 0 else None,
        }


class _Body(BaseModel):
    """What chat and generate have in common."""

    model_config = ConfigDict(extra="allow")
    OTHERS: ClassVar[Others]

    model: str
    stream: bool | None = None
    options: OllamaOptions | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: MostLogprobs | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False

    def _request(self, **prompt: Any) -> GenerateRequest:
        """Raises InvalidParameter."""
        self.OTHERS.check(self)
        if self.top_logprobs and not self.logprobs:
            raise InvalidParameter("top_logprobs", "top_logprobs is given without logprobs", advice="send logprobs true with it")
        schema = {"type": "object"} if self.format == "json" else self.format or None
        return GenerateRequest(
            model=model_name(self.model),
            json_schema=json.dumps(schema) if schema else "",
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            **(self.options or OllamaOptions()).part(),
            **prompt,
        )

    def _variables(self) -> str:
        """Of the chat template."""
        variables: dict[str, Any] = {} if self.think is None else {"enable_thinking": bool(self.think)}
        if isinstance(self.think, str):
            variables["reasoning_effort"] = self.think
        return json.dumps(variables) if variables else ""


class CalledFunction(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    arguments: dict[str, Any] | None = None


class OllamaCall(BaseModel):
    model_config = ConfigDict(extra="allow")

    function: CalledFunction


class OllamaMessage(BaseModel):
    """`tool_name` says of which tool a result is."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | None = None
    thinking: str | None = None
    tool_name: str | None = None
    tool_calls: list[OllamaCall] | None = None

    def message(self, number: int) -> Message:
        """Raises InvalidParameter."""
        where = f"messages[{number}]."
        if self.role not in _ROLES:
            raise InvalidParameter(f"{where}role", f"{where}role is {shown(self.role)}: it must be one of {', '.join(_ROLES)}")
        refuse_media([name for name, value in (self.model_extra or {}).items() if value], f"{where}images")
        MESSAGE.check(self, where)
        for place, call in enumerate(self.tool_calls or ()):
            CALL.check(call, f"{where}tool_calls[{place}].")
            FUNCTION.check(call.function, f"{where}tool_calls[{place}].function.")
        calls = tuple(ToolCall(one.function.name, json.dumps(one.function.arguments or {})) for one in self.tool_calls or ())
        return Message(_ROLES[self.role], self.content or "", calls, self.thinking, None, self.tool_name)


class OllamaChatBody(_Body):
    """POST /api/chat. Without messages it asks whether the model is loaded."""

    OTHERS = CHAT

    messages: list[OllamaMessage] = []
    tools: Tools | None = None

    def request(self) -> GenerateRequest | None:
        """None for no messages. Raises InvalidParameter."""
        if not self.messages:
            return None
        return self._request(
            messages=tuple(one.message(number) for number, one in enumerate(self.messages)),
            tools=tuple(tool.model_dump_json() for tool in self.tools or ()),
            chat_template_kwargs=self._variables(),
        )


class OllamaGenerateBody(_Body):
    """POST /api/generate. Without a prompt it asks whether the model is loaded."""

    OTHERS = GENERATE

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None

    @property
    def plain(self) -> bool:
        """No template is used."""
        return bool(self.raw or self.suffix)

    def request(self) -> GenerateRequest | None:
        """None for no prompt. Raises InvalidParameter."""
        if not self.prompt:
            return None
        if not self.plain:
            system = [Message("system", self.system)] if self.system else []
            return self._request(messages=(*system, Message("user", self.prompt)), chat_template_kwargs=self._variables())
        for name in ("system", "think"):
            if getattr(self, name):
                raise UnsupportedParameter(name, f"{name} is for the chat template, which raw and suffix leave out")
        return self._request(text=self.prompt, suffix=self.suffix or None)


class OllamaEmbedBody(BaseModel):
    """POST /api/embed."""

    model_config = ConfigDict(extra="allow")

    model: str
    input: str | list[str]
    dimensions: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None
    options: Mapping[str, Any] | None = None

    def requests(self) -> list[GenerateRequest]:
        """Raises InvalidParameter."""
        EMBED.check(self)
        inputs: Sequence[str] = [self.input] if isinstance(self.input, str) else self.input
        if len(inputs) > MOST_INPUTS or not all(inputs):
            raise InvalidParameter("input", f"input must be a text, or at most {MOST_INPUTS}, each with something in it")
        return embedding_requests(model_name(self.model), list(inputs))


class OllamaShowBody(BaseModel):
    """POST /api/show. `name` is an older name of `model`; what is `verbose` is not here."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    name: str = ""
    verbose: bool | None = None


def model_name(given: str) -> str:
    return given.removesuffix(LATEST)
