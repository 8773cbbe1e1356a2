"""Tools, calls and results in the words of a model's own chat template.

Templates of GLM-4.5 take OpenAI's: `tools`, `tool_calls`, the role "tool". GLM-4's want a call as an assistant's message with the
function's name as its `metadata`, and a result in the role "observation"; those of THUDM's first files look for `tools` in a system
message. Which one a template speaks is found out by trying, so nothing hangs on how it is written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

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

_CALLED = re.compile(r"\s*([^\s<]+)")


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


def read_calls(answer: str, names: Iterable[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """(what the answer says beside its calls, the calls): of tools with these names, in GLM-4.5's form or GLM-4's ("name", then JSON)."""
    known = frozenset(names)
    said, bodies = _cut(answer, "<tool_call>", "</tool_call>")
    calls = [ToolCall(named[1], _arguments(body)) for body in bodies if (named := _CALLED.match(body)) and named[1] in known]
    if calls:
        return said.strip(), tuple(calls)
    name, newline, arguments = answer.strip().partition("\n")
    try:
        whole = bool(newline) and name in known and isinstance(_json(arguments), dict)
    except (ValueError, RecursionError):
        whole = False
    return ("", (ToolCall(name, arguments.strip()),)) if whole else (answer, ())


def _cut(text: str, begin: str, end: str) -> tuple[str, list[str]]:
    """(what is outside, each that is inside), in one pass: a pattern's time grows with the square of a model's endless `begin`s."""
    outside, inside, at = [], [], 0
    while (start := text.find(begin, at)) >= 0 and (stop := text.find(end, start)) >= 0:
        outside.append(text[at:start])
        inside.append(text[start + len(begin) : stop])
        at = stop + len(end)
    return "".join([*outside, text[at:]]), inside


def _arguments(body: str) -> str:
    """Each value is JSON, or a text as it stands."""
    found: dict[str, Any] = {}
    _, arguments = _cut(body, "<arg_key>", "</arg_value>")
    for argument in arguments:
        key, _, rest = argument.partition("</arg_key>")
        _, has_value, value = rest.partition("<arg_value>")
        if not has_value:
            continue
        try:
            found[key] = _json(value)
        except (ValueError, RecursionError):
            found[key] = value
    return json.dumps(found, ensure_ascii=False)


def plain(message: Message) -> Plain:
    beside = {"reasoning_content": message.reasoning_content, "metadata": message.metadata, "name": message.name}
    return {"role": message.role, "content": message.content, **{key: value for key, value in beside.items() if value is not None}}


def _openai(message: Message) -> list[Plain]:
    if not message.tool_calls:
        return [plain(message)]
    calls = [
        {"type": "function", "function": {"name": call.name, "arguments": _object(call.arguments, f"the call of {call.name}")}}
        for call in message.tool_calls
    ]
    return [{**plain(message), "tool_calls": calls}]


def _glm4(message: Message) -> list[Plain]:
    if message.role == "tool":
        return [{"role": "observation", "content": message.content}]
    said = [plain(message)] if message.content or not message.tool_calls else []
    return [*said, *({"role": "assistant", "metadata": call.name, "content": call.arguments} for call in message.tool_calls)]


def _object(text: str, what: str) -> Plain:
    try:
        value = _json(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not JSON", advice="send OpenAI's format: a function's name, description, parameters") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is no JSON object", advice="send OpenAI's format: a function's name, description, parameters")
    return value


def _json(text: str) -> Any:
    """Raises ValueError for NaN, Infinity and 1e999 too, which Python reads and no other language does."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no number of JSON")
    return value
