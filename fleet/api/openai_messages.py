"""A conversation in OpenAI's shape, and the messages it means to us."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from device.text.messages import Message, ToolCall
from fleet.api.errors import InvalidParameter, UnsupportedParameter
from fleet.api.media import refuse_media
from fleet.api.openai_fields import CALL, CALLED_FUNCTION, CONTENT_PART, MESSAGE
from fleet.api.problems import shown

# Of content: "input_text" is what clients of OpenAI's Responses API send.
_TEXT_PARTS = ("text", "input_text")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


class ContentPart(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str = ""
    text: str | None = None


class FunctionCall(BaseModel):
    """`arguments` is a JSON object's text; clients also write the object itself, and none for a function that takes none."""

    model_config = ConfigDict(extra="allow")

    name: str
    arguments: str | dict[str, Any] | None = None

    def call(self) -> ToolCall:
        return ToolCall(self.name, json.dumps(self.arguments) if isinstance(self.arguments, dict) else self.arguments or "")


class CallBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Function(BaseModel):
    """What a tool is; `parameters` and all else go to the template as they are."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Tool(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: Function


Tools = Annotated[list[Tool], Field(max_length=128)]


class ChatMessage(BaseModel):
    """`reasoning` is what vLLM calls `reasoning_content`; `tools` are GLM-4's way to tell of them, in a system message."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    metadata: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallBody] | None = None
    tool_call_id: str | None = None
    tools: Tools | None = None


def told(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Results of several calls come in the order of the calls: a template tells them apart by nothing else. Raises InvalidParameter."""
    found: list[Message] = []
    while len(found) < len(messages):
        number = len(found)
        results = list(takewhile(lambda one: one.role == "tool", messages[number:]))
        if not results:
            found.append(_message(messages[number], number))
            continue
        calls = (messages[number - 1].tool_calls if number else None) or ()
        order: dict[str | None, int] = {call.id: place for place, call in enumerate(calls) if call.id}
        plain = [_message(one, number + place) for place, one in enumerate(results)]
        if {one.tool_call_id for one in results} <= order.keys():
            by_call = sorted(zip(results, plain, strict=True), key=lambda pair: order[pair[0].tool_call_id])
            plain = [message for _, message in by_call]
        found += plain
    return tuple(found)


def tools_of(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> Sequence[Tool]:
    """`tools` of the body, or of one system message. Raises UnsupportedParameter for another message's, and for both."""
    for number, message in enumerate(messages):
        if message.tools:
            if tools or _ROLES.get(message.role) != "system":
                why = "tools are told once: in the request, or in one system message"
                raise UnsupportedParameter(f"messages[{number}].tools", why)
            tools = message.tools
    return tools


def _message(message: ChatMessage, number: int) -> Message:
    where = f"messages[{number}]."
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidParameter(f"{where}role", f"{where}role is {shown(message.role)}: it must be one of {', '.join(_ROLES)}")
    if not message.content and not isinstance(message.content, str) and role != "assistant":
        # An assistant may have called a tool, and said nothing.
        given = "content" in message.model_fields_set
        sentence = f"is {shown(message.content)}: it must be a string, or a list of parts" if given else "is missing"
        code = ("invalid_value" if message.content is not None else "invalid_type") if given else "missing_required_parameter"
        raise InvalidParameter(f"{where}content", f"{where}content {sentence}", code=code)
    for name, value in (message.model_extra or {}).items():
        if value:
            refuse_media((name,), f"{where}{name}")
    MESSAGE.check(message, where)
    for place, call in enumerate(message.tool_calls or ()):
        CALL.check(call, f"{where}tool_calls[{place}].")
        CALLED_FUNCTION.check(call.function, f"{where}tool_calls[{place}].function.")
    calls = tuple(call.function.call() for call in message.tool_calls or ())
    reasoning = message.reasoning if message.reasoning_content is None else message.reasoning_content
    return Message(role, _text_of(message.content, where), calls, reasoning, message.metadata, message.name)


def _text_of(content: str | Sequence[ContentPart] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for place, part in enumerate(content):
        refuse_media((part.type, *(part.model_extra or {})), f"{where}content[{place}]")
        if part.type not in _TEXT_PARTS or part.text is None:
            why = f"content of type {part.type[:100]!r} is not supported: only text"
            raise UnsupportedParameter(f"{where}content[{place}]", why, 'write {"type": "text", "text": "…"}')
        CONTENT_PART.check(part, f"{where}content[{place}].")
    return "".join(part.text or "" for part in content)
