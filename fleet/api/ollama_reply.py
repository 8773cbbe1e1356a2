"""Ollama's reply objects: parts of a stream, and a whole answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from device.text.calls import Tools
from fleet.answering.views import GenerateResult, LikelyToken, PromptChunk, TokenChunk, TokenLogprobs
from fleet.api.openai_choices import ChatChoice
from fleet.api.openai_reply import usage_of

_NANOSECONDS = 1e9


@dataclass
class OllamaReply:
    """Of one answer. `shape` makes an object's own fields of (thought, text, calls); `plain`: what comes is text, thoughts and all."""

    model: str
    shape: Callable[[str, str, Sequence[Mapping[str, Any]]], dict[str, Any]]
    tools: Tools = field(default_factory=dict)
    plain: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        self._choice = ChatChoice("", tools=self.tools)
        self._untold: list[TokenLogprobs] = []

    def whole(self, result: GenerateResult) -> dict[str, Any]:
        if self.plain:
            own = self.shape("", result.text, ())
        else:
            message = self._choice.whole(result)["message"]
            own = self.shape(message.get("reasoning_content", ""), message["content"] or "", message.get("tool_calls", ()))
        return {**self._head(), **own, **_logprobs(result.logprobs), **self._ending(result)}

    def piece(self, chunk: TokenChunk) -> list[dict[str, Any]]:
        """None of a prompt."""
        if isinstance(chunk, PromptChunk):
            return []
        self._untold += chunk.logprobs
        if self.plain:
            return [self._part(self.shape("", chunk.text, ()))] if chunk.text else []
        return self._told(self._choice.piece(chunk))

    def closing(self, result: GenerateResult) -> list[dict[str, Any]]:
        held = [] if self.plain else self._told(self._choice.closing(result))
        return [*held, {**self._part(self.shape("", "", ())), **self._ending(result)}]

    def loaded(self) -> dict[str, Any]:
        """To whoever sends nothing: the model is there."""
        return {**self._head(), **self.shape("", "", ()), "done": True, "done_reason": "load"}

    def _told(self, choices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        deltas = [choice["delta"] for choice in choices]
        parts = [(one.get("reasoning_content", ""), one.get("content") or "", one.get("tool_calls", ())) for one in deltas]
        return [self._part(self.shape(*part)) for part in parts if any(part)]

    def _part(self, own: Mapping[str, Any]) -> dict[str, Any]:
        untold, self._untold = self._untold, []
        return {**self._head(), **own, "done": False, **_logprobs(untold)}

    def _head(self) -> dict[str, Any]:
        return {"model": self.model, "created_at": self.now().isoformat().replace("+00:00", "Z")}

    def _ending(self, result: GenerateResult) -> dict[str, Any]:
        """Durations in nanoseconds; beyond Ollama's, the joules by how they are known."""
        total, first = (round(seconds * _NANOSECONDS) for seconds in (result.total_seconds, result.ttft_seconds))
        return {
            "done": True,
            "done_reason": "length" if result.finish_reason == "length" else "stop",
            "total_duration": total,
            "load_duration": 0,
            "prompt_eval_count": result.prompt_tokens,
            "prompt_eval_duration": first,
            "eval_count": result.completion_tokens,
            "eval_duration": total - first,
            "energy": usage_of([result])["energy"],
        }


def message_of(thought: str, text: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a chat."""
    told = [{"function": {"name": one["function"]["name"], "arguments": json.loads(one["function"]["arguments"])}} for one in calls]
    thinking = {"thinking": thought} if thought else {}
    return {"message": {"role": "assistant", "content": text, **thinking, **({"tool_calls": told} if told else {})}}


def response_of(thought: str, text: str, _calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of what was generated."""
    return {"response": text, **({"thinking": thought} if thought else {})}


def _logprobs(tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
    if not tokens:
        return {}
    return {"logprobs": [{**_token(one), "top_logprobs": [_token(other) for other in one.likeliest]} for one in tokens]}


def _token(one: LikelyToken) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.bytes)}
