"""OpenAI's reply bodies: whole answers and the chunks of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from device.text.calls import Tools, read_calls
from device.text.thoughts import Piece, Thoughts, thought_and_said
from fleet.answering.views import GenerateResult, TokenChunk
from fleet.deploying.views import DeploymentView

DONE = "[DONE]"


@dataclass
class ChatReply:
    """Bodies of one chat completion; `created` is in unix seconds.

    What the model thought is told apart (`reasoning_content`), as it comes. Where there are `tools`, a stream's answer comes at once, when
    it is known not to be a call of one.
    """

    id: str
    created: int
    model: str
    include_usage: bool = False
    tools: Tools = field(default_factory=dict)
    one_call: bool = False  # of several only the first is told
    _thoughts: Thoughts | None = None  # of the stream
    _thought: str = ""  # what was given out

    def whole(self, result: GenerateResult) -> dict[str, Any]:
        parted = thought_and_said(result.text, result.in_thought)
        said, reason = self._said(parted.said, result)
        thought = {"reasoning_content": parted.thought} if parted.thought else {}
        message = {"role": "assistant", "content": None, "refusal": None, **thought, **said}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(result)}

    def opening(self) -> list[dict[str, Any]]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def piece(self, chunk: TokenChunk) -> list[dict[str, Any]]:
        if self._thoughts is None:
            self._thoughts = Thoughts(chunk.in_thought)
        return self._told(self._thoughts.push(chunk.text))

    def closing(self, result: GenerateResult) -> list[dict[str, Any]]:
        rest = self._thoughts.finish() if self._thoughts else Piece()
        parted = thought_and_said(result.text, result.in_thought)
        said, reason = self._said(parted.said, result)
        if self.tools:
            calls = [{"index": number, **call} for number, call in enumerate(said.get("tool_calls", ()))]
            held = [
                *self._told(Piece(parted.thought[len(self._thought) :])),
                self._chunk({**said, **({"tool_calls": calls} if calls else {})}),
            ]
        else:
            held = self._told(rest)
        last = self._chunk({}, reason)
        if not self.include_usage:
            return [*held, last]
        return [*held, last, {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(result)}]

    def _told(self, piece: Piece) -> list[dict[str, Any]]:
        self._thought += piece.thought
        fields = {"reasoning_content": piece.thought, "content": "" if self.tools else piece.said}
        return [self._chunk({name: text}) for name, text in fields.items() if text]

    def _said(self, answer: str, result: GenerateResult) -> tuple[dict[str, Any], str]:
        """(fields of the message, why it ended)."""
        text, calls = read_calls(answer, self.tools)
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

    def piece(self, chunk: TokenChunk) -> list[dict[str, Any]]:
        return [self._chunk(chunk.text)]

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
