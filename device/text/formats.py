"""The formats that an answer may be asked to have, as grammars: JSON of a schema, calls of tools in the model's own words.

Of llguidance's dialect of Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from device.text.calls import BEGIN, END
from device.text.thoughts import CLOSE, OPEN
from protos.errors import InvalidInput

MOST_CALLS = 8  # of one answer: a small model may not know when to stop
# JSON as models write it, without freedom to write blanks: a small one goes on with them to the end of its context.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# A value of GLM-4.5's is read up to its tag, so no text that has one can be told; of other kinds than these JSON is written.
_RAW = r"/[^<]*/"
_PLAIN_STRING = frozenset({"type", "enum", "const", "description", "title", "default", "examples"})


class CallForm(Enum):
    """How a model writes a call; all are read by `device.text.calls`."""

    TAGS = "tags"  # GLM-4.5: <tool_call>name, then <arg_key> and <arg_value>
    JSON = "json"  # {"name": …, "arguments": …} between the same tags: Hermes, Qwen, and what we tell those who know none
    LINES = "lines"  # GLM-4: the name on a line, then JSON


@dataclass(frozen=True)
class Format:
    """What an answer has to be; `tools` are OpenAI's objects as JSON.

    With `schema` (JSON Schema as JSON) it is a text of JSON that fits; with `called` it calls one of the tools of these names, or several
    where they may be `parallel`. With both it is either.
    """

    schema: str = ""
    tools: tuple[str, ...] = ()
    called: tuple[str, ...] = ()
    parallel: bool = True

    @property
    def free(self) -> bool:
        return not (self.schema or self.called)


def grammar_of(wish: Format, form: CallForm, *, in_thought: bool, may_think: bool) -> str:
    """The grammar's text. `in_thought`: the prompt has opened the model's thought; `may_think`: the model opens one itself if it wants to.

    Raises InvalidInput for what is no schema.
    """
    rules = _Rules()
    kinds = []
    if wish.schema:
        kinds.append(rules.json(_schema(wish.schema, "the answer's schema")))
    if wish.called:
        kinds.append(_calls(rules, wish, form))
    body = " | ".join(kinds)
    if in_thought:
        start = "thought answer"
    elif may_think:
        start = f'("{OPEN}" thought)? answer'
    else:
        start = "answer"
    thought = [r"thought: thinks /\n{0,2}/", f'thinks[suffix="{CLOSE}"]: /(?s:.*)/'] if start != "answer" else []
    return "\n".join(['%llguidance {"no_forcing": true}', f"start: {start}", *thought, f"answer: {body}", *rules.lines]) + "\n"


class _Rules:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, body: str) -> str:
        """Its name."""
        name = f"r{len(self.lines)}"
        self.lines.append(f"{name}: {body}")
        return name

    def json(self, schema: Any) -> str:
        wish = {**schema, "x-guidance": _JSON} if isinstance(schema, dict) else {"allOf": [schema], "x-guidance": _JSON}
        return self.add(f"%json {json.dumps(wish)}")


def _calls(rules: _Rules, wish: Format, form: CallForm) -> str:
    functions = [json.loads(tool)["function"] for tool in wish.tools]
    by_name = {one["name"]: one.get("parameters", {"properties": {}}) for one in functions}
    bodies = [_call(rules, name, by_name[name], form) for name in wish.called]
    call = rules.add(" | ".join(bodies))
    return rules.add(f'{call} ("\\n" {call}){{0,{MOST_CALLS - 1}}}') if wish.parallel else call


def _call(rules: _Rules, name: str, parameters: Any, form: CallForm) -> str:
    schema = _object(parameters, name)
    if form is CallForm.LINES:
        return rules.add(f"{_text(name + chr(10))} {rules.json(schema)}")
    if form is CallForm.TAGS and (values := _tagged(rules, schema)) is not None:
        return rules.add(" ".join([_text(f"{BEGIN}{name}\n"), *values, _text(END)]))
    before, behind = f"{BEGIN}\n{{{json.dumps('name')}: {json.dumps(name)}, {json.dumps('arguments')}: ", f"}}\n{END}"
    return rules.add(f"{_text(before)} {rules.json(schema)} {_text(behind)}")


def _tagged(rules: _Rules, schema: Mapping[str, Any]) -> list[str] | None:
    """Each argument between its tags, in the schema's order; None where that cannot say what the schema says: JSON can."""
    properties = schema.get("properties", {})
    if schema.keys() - {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "description",
        "title",
        "$defs",
        "definitions",
        "$schema",
    }:
        return None
    if not isinstance(properties, dict) or schema.get("additionalProperties"):
        return None
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    found = []
    for name, one in properties.items():
        value = _value(rules, one, shared)
        if value is None or "<" in name or name != name.strip():
            return None
        argument = rules.add(f"{_text(f'<arg_key>{name}</arg_key>{chr(10)}<arg_value>')} {value} {_text(f'</arg_value>{chr(10)}')}")
        found.append(argument if name in schema.get("required", ()) else f"{argument}?")
    return found


def _value(rules: _Rules, schema: Any, shared: Mapping[str, Any]) -> str | None:
    """A string is written as it is, all else as JSON; None where it may be a string and more is asked of it than a grammar can say so."""
    if not isinstance(schema, dict):
        return None
    texts = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if schema.get("type") == "string" or (texts is not None and all(isinstance(text, str) for text in texts)):
        if schema.keys() - _PLAIN_STRING:
            return None
        if texts is None:
            return _RAW
        fit = [text for text in texts if isinstance(text, str) and "<" not in text and text == text.strip()]
        return rules.add(" | ".join(map(_text, fit))) if len(fit) == len(texts) and fit and all(fit) else None
    if schema.get("type") not in ("integer", "number", "boolean", "null", "array", "object"):
        return None
    return rules.json({**schema, **shared})


def _object(schema: Any, name: str) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise InvalidInput(f"the parameters of {name} are no JSON object", advice="send a JSON schema of an object")
    closed = {"additionalProperties": False} if "properties" in schema else {}  # what a function does not name it does not take
    return {"type": "object", **closed, **schema}


def _schema(text: str, what: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not JSON", advice="send a JSON schema") from error
    if not isinstance(found, dict | bool):
        raise InvalidInput(f"{what} is no JSON schema", advice="send an object")
    return found


def _text(text: str) -> str:
    """As Lark has it."""
    return json.dumps(text)


def names_of(tools: Sequence[str]) -> tuple[str, ...]:
    """Of OpenAI's objects as JSON."""
    return tuple(json.loads(tool)["function"]["name"] for tool in tools)
