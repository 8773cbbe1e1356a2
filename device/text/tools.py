"""Tools, calls and results in the words of a model's own chat template.

Templates of GLM-4.5 take OpenAI's: `tools`, `tool_calls`, the role "tool". GLM-4's want a call as an assistant's message with the
function's name as its `metadata`, and a result in the role "observation"; those of THUDM's first files look for `tools` in a system
message. Which one a template speaks is found out by trying, so nothing hangs on how it is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from device.text.arguments import read_json
from device.text.messages import Message, ToolCall
from protos.errors import InvalidInput

Plain: TypeAlias = Mapping[str, Any]  # a message as the template sees it
Render: TypeAlias = Callable[[Sequence[Plain], Sequence[Plain]], str]
"""(messages, tools) -> the prompt's text. Raises InvalidInput."""


@dataclass(frozen=True)
class Dialect:
    """How a template is told of tools."""

    openai_calls: bool  # else metadata and observation
    tools_in_message: bool  # a system message that has `tools`, else the variable


DIALECTS = tuple(Dialect(calls, inside) for calls in (True, False) for inside in (False, True))

_PROBE = (
    Message("user", "glmfleet-question"),
    Message("assistant", "", (ToolCall("glmfleet-called", '{"glmfleet-argument": "glmfleet-value"}'),)),
    Message("tool", "glmfleet-result"),
)
_PROBE_TOOL = json.dumps({"type": "function", "function": {"name": "glmfleet-tool", "description": "glmfleet-does", "parameters": {}}})
_MUST_SHOW = ("question", "called", "argument", "value", "result", "tool", "does")


def find_dialect(render: Render) -> Dialect | None:
    """The one in which the template shows all of a conversation with tools; None when it knows none."""
    for dialect in DIALECTS:
        try:
            text = render(*in_dialect(_PROBE, (_PROBE_TOOL,), dialect))
        except InvalidInput:
            continue
        if all(f"glmfleet-{word}" in text for word in _MUST_SHOW):
            return dialect
    return None


def in_dialect(messages: Sequence[Message], tools: Sequence[str], dialect: Dialect) -> tuple[list[Plain], list[Plain]]:
    """(messages, tools) for the template; `tools` are OpenAI's objects as JSON. Raises InvalidInput for what is no JSON object."""
    objects = [_object(tool, "a tool") for tool in tools]
    told: list[Plain] = [{"role": "system", "content": "", "tools": objects}] if objects and dialect.tools_in_message else []
    for message in messages:
        told += _openai(message) if dialect.openai_calls else _glm4(message)
    return told, [] if dialect.tools_in_message else objects


def needs_dialect(messages: Sequence[Message], tools: Sequence[str]) -> bool:
    return bool(tools) or any(message.role == "tool" or message.tool_calls for message in messages)


def plain(message: Message) -> Plain:
    beside = {"reasoning_content": message.reasoning_content, "metadata": message.metadata, "name": message.name}
    return {"role": message.role, "content": message.content, **{key: value for key, value in beside.items() if value is not None}}


def _openai(message: Message) -> list[Plain]:
    if not message.tool_calls:
        return [plain(message)]
    calls = [
        {"type": "function", "function": {"name": call.name, "arguments": _object(_arguments(call), f"the call of {call.name}")}}
        for call in message.tool_calls
    ]
    return [{**plain(message), "tool_calls": calls}]


def _glm4(message: Message) -> list[Plain]:
    if message.role == "tool":
        return [{"role": "observation", "content": message.content}]
    said = [plain(message)] if message.content or not message.tool_calls else []
    return [*said, *({"role": "assistant", "metadata": call.name, "content": _arguments(call)} for call in message.tool_calls)]


def _arguments(call: ToolCall) -> str:
    """Clients write none for a function that takes none."""
    return "{}" if call.arguments.strip() in ("", "null") else call.arguments


def _object(text: str, what: str) -> Plain:
    try:
        value = read_json(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not JSON", advice="send OpenAI's format: a function's name, description, parameters") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is no JSON object", advice="send OpenAI's format: a function's name, description, parameters")
    return value
