"""OpenAI's reply bodies: whole answers and the chunks of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from device.text.tools import read_calls
from fleet.answering.views import GenerateResult
from fleet.deploying.views import DeploymentView

DONE = "[DONE]"


@dataclass(frozen=True)
class ChatReply:
    """Bodies of one chat completion; `created` is in unix seconds.

    Where there are `tools` (names), a stream's text comes at once, when it is known not to be a call of one.
    """

    id: str
    created: int
    model: str
    include_usage: bool = False
    tools: tuple[str, ...] = ()
    one_call: bool = False  # of several only the first is told

    def whole(self, result: GenerateResult) -> dict[str, Any]:
        said, reason = self._said(result)
        message = {"role": "assistant", "content": None, "refusal": None, **said}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(result)}

    def opening(self) -> list[dict[str, Any]]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def text(self, text: str) -> list[dict[str, Any]]:
        return [] if self.tools else [self._chunk({"content": text})]

    def closing(self, result: GenerateResult) -> list[dict[str, Any]]:
        said, reason = self._said(result)
        calls = [{"index": number, **call} for number, call in enumerate(said.get("tool_calls", ()))]
        held = [self._chunk({**said, **({"tool_calls": calls} if calls else {})})] if self.tools else []
        last = self._chunk({}, reason)
        if not self.include_usage:
            return [*held, last]
        return [*held, last, {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(result)}]

    def _said(self, result: GenerateResult) -> tuple[dict[str, Any], str]:
        """(fields of the message, why it ended)."""
        text, calls = read_calls(result.text, self.tools) if self.tools else (result.text, ())
        if not calls:
            return {"content": text}, _finish(result)
        functions = [{"name": call.name, "arguments": call.arguments} for call in (calls[:1] if self.one_call else calls)]
        told = [{"id": f"call_{self.id[-24:]}{number}", "type": "function", "function": one} for number, one in enumerate(functions)]
        return {"content": text or None, "tool_calls": told}, "tool_calls"

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        tail = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **tail}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True)
class TextReply:
    """Bodies of one plain completion; `created` is in unix seconds."""

    id: str
    created: int
    model: str
    include_usage: bool = False

    def whole(self, result: GenerateResult) -> dict[str, Any]:
        return {**self._chunk(result.text, _finish(result)), "usage": usage(result)}

    def opening(self) -> list[dict[str, Any]]:
        return []

    def text(self, text: str) -> list[dict[str, Any]]:
        return [self._chunk(text)]

    def closing(self, result: GenerateResult) -> list[dict[str, Any]]:
        last = self._chunk("", _finish(result))
        return [last, {**self._chunk(""), "choices": [], "usage": usage(result)}] if self.include_usage else [last]

    def _chunk(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        tail = {"usage": None} if self.include_usage else {}
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model, "choices": [choice], **tail}


def usage(result: GenerateResult) -> dict[str, Any]:
    prompt, completion = result.prompt_tokens, result.completion_tokens
    cached = {"cached_tokens": result.reused_tokens}
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "prompt_tokens_details": cached}


def model_entry(deployment: DeploymentView) -> dict[str, Any]:
    """OpenAI's model object of a deployment; `created` is not known and 0."""
    return {"id": deployment.name, "object": "model", "created": 0, "owned_by": "glmfleet"}


def _finish(result: GenerateResult) -> str:
    return "length" if result.finish_reason == "length" else "stop"
