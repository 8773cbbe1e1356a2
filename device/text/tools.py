"""Tools, calls and results in the words of a model's own chat template.

Templates of GLM-4.5 take OpenAI's: `tools`, `tool_calls`, the role "tool". GLM-4's want a call as an assistant's message with the
function's name as its `metadata`, and a result in the role "observation"; those of THUDM's first files look for `tools` in a system
message. Which one a template speaks is found out by trying, so nothing hangs on how it is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from device.text.arguments import read_json
from device.text.calls import BEGIN, END
from device.text.formats import CallForm
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
_GENERIC = """You can call functions. Each line between the tags is one of them, as JSON:
<tools>
{tools}
</tools>
To call one, answer with its name and its arguments as JSON between these tags:
<tool_call>
{{"name": "the function's name", "arguments": {{"the argument's name": "its value"}}}}
</tool_call>"""
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


def in_generic(messages: Sequence[Message], tools: Sequence[str]) -> list[Plain]:
    """For a template that knows no tools: told of in a system message, called as Hermes and Qwen do, which `device.text.calls` reads.
    Raises InvalidInput for what is no JSON object."""
    told = [plain(message) for message in _generic(messages)]
    if not tools:
        return told
    lines = [json.dumps(_object(tool, "a tool"), ensure_ascii=False) for tool in tools]
    explained = _GENERIC.format(tools="\n".join(lines))
    first, rest = (told[0], told[1:]) if told and told[0]["role"] == "system" else ({"role": "system", "content": ""}, told)
    return [{**first, "content": f"{first['content']}\n\n{explained}".strip()}, *rest]


def _generic(messages: Sequence[Message]) -> Iterator[Message]:
    for message in messages:
        if message.role == "tool":
            yield replace(message, role="user", content=f"<tool_response>\n{message.content}\n</tool_response>", name=None)
        else:
            calls = [
                json.dumps({"name": call.name, "arguments": _object(_arguments(call), f"the call of {call.name}")}, ensure_ascii=False)
                for call in message.tool_calls
            ]
            said = [text for text in (message.content, *(f"{BEGIN}\n{call}\n{END}" for call in calls)) if text]
            yield replace(message, content="\n".join(said), tool_calls=())


def form_of_calls(render: Render, dialect: Dialect | None) -> CallForm:
    """In which a template shows a call, and so the model writes one."""
    if dialect is None:
        return CallForm.JSON
    if not dialect.openai_calls:
        return CallForm.LINES
    return CallForm.TAGS if "<arg_key>" in render(*in_dialect(_PROBE, (_PROBE_TOOL,), dialect)) else CallForm.JSON


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
