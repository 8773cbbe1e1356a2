"""Requests of OpenAI's responses API, as the chats that they mean: its text and function-call part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from fleet.api.errors import InvalidParameter, UnsupportedParameter
from fleet.api.generate import MaxTokens, MostLogprobs
from fleet.api.media import refuse_media
from fleet.api.openai_fields import (
    FUNCTION_TOOL,
    REASONING,
    RESPONSE_ITEM,
    RESPONSE_PART,
    RESPONSE_STREAM_OPTIONS,
    RESPONSE_TEXT,
    RESPONSES,
    Others,
)
from fleet.api.openai_formats import JsonSchema, PlainFormat, SchemaFormat
from fleet.api.openai_messages import CallBody, ChatMessage, Function, FunctionCall, Tool
from fleet.api.openai_request import BOUNDS, ChatBody
from fleet.api.problems import shown
from fleet.api.sampling import with_sampling
from protos.sampling import PARAMETERS

LOGPROBS = "message.output_text.logprobs"
# Asked for by clients that keep a model's thoughts for it: here they come as they are, and may be sent back.
_INCLUDED = (LOGPROBS, "reasoning.encrypted_content")
_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_ROLES = ("user", "assistant", "system", "developer")


class _Open(BaseModel):
    """Other fields are kept, for `fleet.api.openai_fields` to judge."""

    model_config = ConfigDict(extra="allow")


class ResponsePart(_Open):
    type: str
    text: str | None = None


class ResponseItem(_Open):
    """Of the conversation. A message may leave out its `type`."""

    type: str = "message"
    role: str | None = None
    content: str | list[ResponsePart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ResponsePart] | None = None
    encrypted_content: str | None = None


class FunctionTool(_Open):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseTextFormat(_Open):
    """Of the answer; the schema stands beside its name, where chat completions have it in an object."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseText(_Open):
    format: ResponseTextFormat | None = None


class ResponseStreamOptions(_Open):
    pass


class ResponseReasoning(_Open):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


@with_sampling(BOUNDS, nullable=True)
class ResponsesBody(_Open):
    """POST /v1/responses."""

    OTHERS: ClassVar[Others] = RESPONSES

    model: str
    input: str | list[ResponseItem]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: ResponseText | None = None
    reasoning: ResponseReasoning | None = None
    include: list[str] | None = None
    top_logprobs: MostLogprobs | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: dict[str, Any] | None = None  # told again with the answer

    @property
    def logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    def chat(self) -> ChatBody:
        """Raises InvalidParameter."""
        self.OTHERS.check(self)
        for name, part, others in (
            ("stream_options.", self.stream_options, RESPONSE_STREAM_OPTIONS),
            ("text.", self.text, RESPONSE_TEXT),
            ("reasoning.", self.reasoning, REASONING),
        ):
            if part is not None:
                others.check(part, name)
        for wish in self.include or ():
            if wish not in _INCLUDED:
                raise UnsupportedParameter("include", f"include has {wish[:64]!r}: nothing of that is here")
        if self.top_logprobs and not self.logprobs:
            raise InvalidParameter("top_logprobs", f"top_logprobs is given without {LOGPROBS} in include")
        sampling = {name: value for name in PARAMETERS if (value := getattr(self, name)) is not None}
        return ChatBody(
            model=self.model,
            messages=[*([ChatMessage(role="system", content=self.instructions)] if self.instructions else []), *self._messages()],
            max_tokens=self.max_output_tokens,
            tools=[_tool(tool, place) for place, tool in enumerate(self.tools or ())] or None,
            tool_choice=_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=_format(self.text.format if self.text else None),
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
            logprobs=self.logprobs or None,
            top_logprobs=self.top_logprobs if self.logprobs else None,
            **sampling,
        )

    def _messages(self) -> list[ChatMessage]:
        if isinstance(self.input, str):
            if not self.input:
                raise InvalidParameter("input", "input is empty", advice="say something")
            return [ChatMessage(role="user", content=self.input)]
        if not self.input:
            raise InvalidParameter("input", "input is an empty list: it must be a text, or have an item at least")
        return _conversation(self.input)


def _conversation(items: Sequence[ResponseItem]) -> list[ChatMessage]:
    """What a model thought, said and called in one turn is one message of an assistant's."""
    found: list[ChatMessage] = []
    for number, item in enumerate(items):
        where = f"input[{number}]."
        refuse_media((item.type, *(name for name, value in (item.model_extra or {}).items() if value)), where.removesuffix("."))
        RESPONSE_ITEM.check(item, where)
        turn = found[-1] if found and found[-1].role == "assistant" else None
        match item.type:
            case "message":
                if item.role not in _ROLES:
                    raise InvalidParameter(f"{where}role", f"{where}role is {shown(item.role)}: it must be one of {', '.join(_ROLES)}")
                text = _text(item.content, f"{where}content")
                if item.role == "assistant" and turn is not None and turn.content is None and not turn.tool_calls:
                    turn.content = text  # behind its thought
                else:
                    found.append(ChatMessage(role=item.role, content=text))
            case "function_call":
                name, arguments = _given(item.name, f"{where}name"), _given(item.arguments, f"{where}arguments")
                call = CallBody(id=_given(item.call_id, f"{where}call_id"), function=FunctionCall(name=name, arguments=arguments))
                if turn is None:
                    found.append(ChatMessage(role="assistant", tool_calls=[call]))
                else:
                    turn.tool_calls = [*(turn.tool_calls or ()), call]
            case "function_call_output":
                result = _text(item.output, f"{where}output")
                found.append(ChatMessage(role="tool", content=result, tool_call_id=_given(item.call_id, f"{where}call_id")))
            case "reasoning":
                if item.encrypted_content:
                    place = f"{where}encrypted_content"
                    raise UnsupportedParameter(place, f"{place} is what another server has locked", "send its content")
                found.append(ChatMessage(role="assistant", reasoning_content=_text(item.content or "", f"{where}content")))
            case other:
                why = f"{where}type is {other[:64]!r}: nothing of that is here, and no answer is kept to be named"
                raise UnsupportedParameter(f"{where}type", why, "send messages, function_call, function_call_output and reasoning")
    return found


def _text(content: str | Sequence[ResponsePart] | None, where: str) -> str:
    if isinstance(content, str):
        return content
    for place, part in enumerate(_given(content, where)):
        refuse_media((part.type, *(part.model_extra or {})), f"{where}[{place}]")
        if part.type not in _TEXT_PARTS or part.text is None:
            raise UnsupportedParameter(f"{where}[{place}]", f"{where}[{place}] of type {part.type[:64]!r} is not supported: only text")
        RESPONSE_PART.check(part, f"{where}[{place}].")
    return "".join(part.text or "" for part in content or ())


def _given(value: Any, place: str) -> Any:
    if value is None:
        raise InvalidParameter(place, f"{place} is missing", code="missing_required_parameter")
    return value


def _tool(tool: FunctionTool, number: int) -> Tool:
    where = f"tools[{number}]."
    if tool.type != "function":
        raise UnsupportedParameter(f"{where}type", f"{where}type is {tool.type[:64]!r}: tools are functions here, which the caller runs")
    FUNCTION_TOOL.check(tool, where)
    function = tool.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True)
    try:
        return Tool(function=Function.model_validate(function))
    except ValueError as error:
        allowed = "1 to 64 letters, digits, underscores, dots and hyphens"
        raise InvalidParameter(f"{where}name", f"{where}name is {shown(tool.name)}: it must be {allowed}") from error


def _choice(choice: Any) -> Any:
    """As chat completions have it."""
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _format(wish: ResponseTextFormat | None) -> PlainFormat | SchemaFormat | None:
    if wish is None:
        return None
    if wish.type != "json_schema":
        return PlainFormat(type=wish.type)
    if wish.schema_ is None:
        raise InvalidParameter("text.format.schema", "text.format.schema is missing", code="missing_required_parameter")
    return SchemaFormat(type="json_schema", json_schema=JsonSchema(name=wish.name, schema_=wish.schema_, strict=wish.strict))


def told_again(body: ResponsesBody) -> dict[str, Any]:
    """Of the request, in the answer. No answer is kept, whatever `store` says, so its `store` is false."""
    format_ = body.text.format.model_dump(by_alias=True, exclude_none=True) if body.text and body.text.format else {"type": "text"}
    tools = [{"strict": None, "parameters": None, **tool.model_dump(exclude_none=True)} for tool in body.tools or ()]
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": False,
        "temperature": getattr(body, "temperature", None),
        "text": {"format": format_},
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": getattr(body, "top_p", None),
        "truncation": "disabled",
    }
