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
    """`role` is OpenAI's: system, user, assistant, tool (what a call gave). What is None is not told to the template."""

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning_content: str | None = None  # of an assistant, where the model told it apart from the answer
    metadata: str | None = None  # of GLM-4: behind the role, on its line
    name: str | None = None  # who speaks, of several in one role
