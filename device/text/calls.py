"""Calls of tools in what a model answered: whole ones become calls, damaged ones stay text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from device.text.arguments import Schema, begin_of_json, read_json, typed_arguments
from device.text.messages import ToolCall

Tools: TypeAlias = Mapping[str, Schema]
"""The schema of its parameters by a tool's name."""

BEGIN, END = "<tool_call>", "</tool_call>"
TAGS = frozenset({BEGIN, END, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"})
_NAME = re.compile(r"\s*([^\s<]+)\s*")
_KEY = re.compile(r"<arg_key>([^<]*)</arg_key>\s*<arg_value>")
_VALUE, _END_VALUE = "<arg_value>", "</arg_value>"
_SPACE = re.compile(r"\s*")
_LIKE_A_CALL = re.compile(r"\S+[ \t]*\n\s*\{")
_BETWEEN = re.compile(r"\s*(?:<\|assistant\|>\s*)?")  # calls of GLM-4's, where the tag was not taken for a token


@dataclass(frozen=True)
class _Read:
    calls: tuple[ToolCall, ...]
    end: int  # behind them, in the answer


def tools_told(objects: Iterable[str]) -> Tools:
    """Of OpenAI's objects as JSON, which have been checked."""
    functions = [json.loads(one).get("function") or {} for one in objects]
    return {one["name"]: one["parameters"] if isinstance(one.get("parameters"), dict) else {} for one in functions if "name" in one}


def read_calls(answer: str, tools: Tools) -> tuple[str, tuple[ToolCall, ...]]:
    """(what the answer says beside its calls, the calls), of these tools only.

    In the form of GLM-4.5 (<tool_call>name, then <arg_key> and <arg_value>), that with JSON between the same tags, and that of GLM-4: a
    name on a line of its own, then JSON; several follow each other. A call that is cut off, has anything else in it, or is of no such
    tool, is left in what the answer says.
    """
    said, calls = _tagged(answer, tools) if tools else (answer, ())
    if calls:
        return said.strip(), calls
    return _by_lines(answer, tools) or (answer, ())


def _tagged(answer: str, tools: Tools) -> tuple[str, tuple[ToolCall, ...]]:
    outside: list[str] = []
    calls: list[ToolCall] = []
    begun = 0
    at = answer.find(BEGIN)
    while at >= 0:
        read = _with_tags(answer, at + len(BEGIN), tools) or _with_json(answer, at + len(BEGIN), tools)
        if read is not None:
            outside.append(answer[begun:at])
            calls += read.calls
            begun = read.end
        at = answer.find(BEGIN, at + len(BEGIN) if read is None else read.end)
    return "".join([*outside, answer[begun:]]), tuple(calls)


def _with_tags(answer: str, at: int, tools: Tools) -> _Read | None:
    """Read by its grammar, so that a value may have any text in it but another value's tag: the time stays in proportion."""
    named = _NAME.match(answer, at)
    if named is None or named[1] not in tools:
        return None
    texts: dict[str, str] = {}
    at = named.end()
    while key := _KEY.match(answer, at):
        another = answer.find(_VALUE, key.end())
        end = answer.find(_END_VALUE, key.end(), another if another >= 0 else len(answer))
        if end < 0:
            return None
        texts[key[1].strip()] = answer[key.end() : end]
        at = _past_space(answer, end + len(_END_VALUE))
    if not answer.startswith(END, at):
        return None
    arguments = json.dumps(typed_arguments(texts, tools[named[1]]), ensure_ascii=False)
    return _Read((ToolCall(named[1], arguments),), at + len(END))


def _with_json(answer: str, at: int, tools: Tools) -> _Read | None:
    """{"name": …, "arguments": {…}}, or a list of such; before the next call, so that the time stays in proportion."""
    at = _past_space(answer, at)
    if not answer.startswith(("{", "["), at):
        return None
    another = answer.find(BEGIN, at)
    try:
        value, length = begin_of_json(answer[at : another if another >= 0 else len(answer)], 0)
        calls = tuple(_of_object(one, tools) for one in (value if isinstance(value, list) else [value]))
    except (ValueError, RecursionError):
        return None
    end = _past_space(answer, at + length)
    return _Read(calls, end + len(END)) if calls and answer.startswith(END, end) else None


def _of_object(value: Any, tools: Tools) -> ToolCall:
    """Raises ValueError."""
    name, arguments = (value.get("name"), value.get("arguments", value.get("parameters"))) if isinstance(value, dict) else (None, None)
    if isinstance(arguments, str):
        arguments = read_json(arguments)
    if not isinstance(name, str) or name not in tools or not isinstance(arguments, dict):
        raise ValueError("no call of a tool")
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def _by_lines(answer: str, tools: Tools) -> tuple[str, tuple[ToolCall, ...]] | None:
    """Where the answer ends with such calls: GLM-4 says nothing behind them. What is damaged from there on is left to what it says."""
    if not tools:
        return None
    names = "|".join(map(re.escape, sorted(tools, key=len, reverse=True)))
    head = re.compile(rf"({names})[ \t]*\n\s*(?={{)")
    # At the begin of a line, or right behind a sentence: the tag <|assistant|> that parted them gives no text.
    first = re.search(rf"(?<![A-Za-z0-9_ \t`-]){head.pattern}", answer)
    if first is None:
        return None
    at, calls, said = first.start(), [], answer[: first.start()].strip()
    while named := head.match(answer, at):
        try:
            _, end = begin_of_json(answer, named.end())
        except (ValueError, RecursionError):
            break
        calls.append(ToolCall(named[1], answer[named.end() : end]))
        found = _BETWEEN.match(answer, end)
        at = found.end() if found else end
    rest = answer[at:].strip()
    if not calls or (rest and not _LIKE_A_CALL.match(rest)):
        return None
    return "\n".join(text for text in (said, rest) if text), tuple(calls)


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
