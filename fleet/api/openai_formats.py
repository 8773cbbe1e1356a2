"""What an answer of OpenAI's has to be: `response_format`, `tool_choice`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from fleet.api.errors import InvalidParameter
from fleet.api.problems import shown


class PlainFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object"]


class JsonSchema(BaseModel):
    """`strict` or not, the answer fits; `name` and `description` are for the caller."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class SchemaFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat: TypeAlias = Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")]


def schema_of(wish: PlainFormat | SchemaFormat | None) -> str:
    """That the answer fits, as JSON; "" for any text."""
    if isinstance(wish, SchemaFormat):
        schema = wish.json_schema.schema_
        return json.dumps({} if schema is None else schema)
    return json.dumps({"type": "object"}) if wish and wish.type == "json_object" else ""


def called_tools(choice: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Of the tools `names`, those of which one has to be called; none: the model decides. Raises InvalidParameter."""
    if choice in (None, "none", "auto"):
        return ()
    if not names:
        raise InvalidParameter("tool_choice", "tool_choice asks for a call, and there are no tools", advice="send tools, or leave it out")
    if choice == "required":
        return tuple(names)
    named = _named(choice)
    if named not in names:
        raise InvalidParameter("tool_choice", f"tool_choice names {named[:64]!r}, which is none of the tools")
    return (named,)


def _named(choice: Any) -> str:
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(function := choice.get("function"), dict):
        return str(function.get("name"))
    known = 'it must be "none", "auto", "required" or {"type": "function", "function": {"name": "…"}}'
    raise InvalidParameter("tool_choice", f"tool_choice is {shown(choice)}: {known}")
