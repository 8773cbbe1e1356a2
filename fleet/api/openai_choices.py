"""One choice of an answer in OpenAI's shape, whole and as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from device.text.calls import Tools, read_calls
from device.text.thoughts import Piece, Thoughts, thought_and_said
from fleet.answering.views import GenerateResult, PromptChunk, PromptToken, TokenChunk, TokenLogprobs
from fleet.api.openai_logprobs import TextLogprobs, chat_logprobs


class Choice(Protocol):
    """Each method gives choices of one body or chunk, as dicts."""

    def whole(self, result: GenerateResult) -> dict[str, Any]: ...
    def opening(self) -> list[dict[str, Any]]: ...
    def piece(self, chunk: TokenChunk) -> list[dict[str, Any]]: ...
    def closing(self, result: GenerateResult) -> list[dict[str, Any]]: ...


@dataclass
class ChatChoice:
    """Of a chat.

    What the model thought is told apart (`reasoning_content`), as it comes. Where there are `tools`, a stream's answer comes at once, when
    it is known not to be a call of one. Log probabilities come with the first text behind their tokens, those of thoughts and calls too.
    """

    id: str  # of the whole answer: calls are named by it
    index: int = 0
    tools: Tools = field(default_factory=dict)
    one_call: bool = False  # of several only the first is told
    logprobs: bool = False
    _thoughts: Thoughts | None = None  # of the stream
    _thought: str = ""  # what was given out
    _untold: list[TokenLogprobs] = field(default_factory=list)

    def whole(self, result: GenerateResult) -> dict[str, Any]:
        parted = thought_and_said(result.text, result.in_thought)
        said, reason = self._said(parted.said, result)
        thought = {"reasoning_content": parted.thought} if parted.thought else {}
        message = {"role": "assistant", "content": None, "refusal": None, **thought, **said}
        logprobs = chat_logprobs(result.logprobs) if self.logprobs else None
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def opening(self) -> list[dict[str, Any]]:
        return [self._delta({"role": "assistant", "content": ""})]

    def piece(self, chunk: TokenChunk) -> list[dict[str, Any]]:
        self._untold += chunk.logprobs
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
                self._delta({**said, **({"tool_calls": calls} if calls else {})}),
            ]
        else:
            held = self._told(rest)
        return [*held, self._delta({}, reason)]

    def _told(self, piece: Piece) -> list[dict[str, Any]]:
        self._thought += piece.thought
        fields = {"reasoning_content": piece.thought, "content": "" if self.tools else piece.said}
        return [self._delta({name: text}) for name, text in fields.items() if text]

    def _said(self, answer: str, result: GenerateResult) -> tuple[dict[str, Any], str]:
        """(fields of the message, why it ended)."""
        text, calls = read_calls(answer, self.tools)
        if not calls:
            return {"content": text}, _finish(result)
        functions = [{"name": call.name, "arguments": call.arguments} for call in (calls[:1] if self.one_call else calls)]
        names = (f"call_{self.id[-24:]}{self.index or ''}{number}" for number in range(len(functions)))
        told = [{"id": name, "type": "function", "function": one} for name, one in zip(names, functions, strict=True)]
        return {"content": text or None, "tool_calls": told}, "tool_calls"

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        untold, self._untold = self._untold, []
        logprobs = chat_logprobs(untold) if untold else None
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


@dataclass
class TextChoice:
    """Of a plain completion. `echo`: the prompt as it was given, to be told before the answer; "" of one that was token ids."""

    index: int = 0
    logprobs: bool = False
    echo: str | None = None
    _logprobs: TextLogprobs = field(default_factory=TextLogprobs)  # of what was told
    _untold: list[TokenLogprobs | PromptToken] = field(default_factory=list)

    def whole(self, result: GenerateResult) -> dict[str, Any]:
        echoed = self._echoed(result.prompt)
        self._untold += result.logprobs
        return self._choice(echoed + result.text, _finish(result))

    def opening(self) -> list[dict[str, Any]]:
        return []

    def piece(self, chunk: TokenChunk) -> list[dict[str, Any]]:
        text = self._echoed(chunk.prompt if isinstance(chunk, PromptChunk) else ()) + chunk.text
        self._untold += chunk.logprobs
        return [self._choice(text)] if text else []

    def closing(self, result: GenerateResult) -> list[dict[str, Any]]:
        return [self._choice("", _finish(result))]

    def _echoed(self, prompt: Sequence[PromptToken]) -> str:
        if self.echo is None or not prompt:
            return ""
        written = b"".join(bytes(one.bytes) for one in prompt).decode(errors="replace")
        if written.endswith(self.echo) and self.echo:
            self._logprobs.skip(len(written) - len(self.echo))
        self._untold += prompt
        return self.echo or written

    def _choice(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        untold, self._untold = self._untold, []
        logprobs = self._logprobs.told(untold) if self.logprobs and (untold or finish_reason) else None
        return {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _finish(result: GenerateResult) -> str:
    return "length" if result.finish_reason == "length" else "stop"
