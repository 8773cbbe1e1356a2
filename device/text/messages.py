"""A conversation as it comes to the chat template."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ToolCall:
    """A function that the model asked for; `arguments` is a JSON object's text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """`role` is OpenAI's: system, user, assistant, tool (what a call gave)."""

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
