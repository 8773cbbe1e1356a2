"""Values of a call's arguments, which a model writes as bare text, typed by the tool's JSON schema and not by their look."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]
"""A JSON schema as somebody sent it: anything may be in it."""

_NO_SCHEMA: Schema = {}
_DEEPEST = 8  # of references and unions
_INTEGER = re.compile(r"[+-]?\d{1,4000}")
_OF_PYTHON = {"True": True, "False": False, "None": None}  # as models that read much Python write them


def typed_arguments(texts: Mapping[str, str], parameters: Schema) -> dict[str, Any]:
    """`parameters` is the schema of the whole. A text that is none of what its schema allows stays a text: nothing is lost.

    >>> typed_arguments({"code": "01234", "count": "3"}, {"properties": {"code": {"type": "string"}, "count": {"type": "integer"}}})
    {'code': '01234', 'count': 3}
    """
    properties = _object(parameters.get("properties"))
    others = _object(parameters.get("additionalProperties"))
    return {name: _typed(text, _kinds(properties.get(name, others), parameters)) for name, text in texts.items()}


def read_json(text: str) -> Any:
    """Raises ValueError, RecursionError; for NaN, Infinity and 1e999 too, which Python reads and no other language does."""
    return _DECODER.decode(text.strip())


def begin_of_json(text: str, at: int) -> tuple[Any, int]:
    """(the value that begins there, where it ends). Raises ValueError, RecursionError."""
    return _DECODER.raw_decode(text, at)


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no number of JSON")
    return value


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)


def _typed(text: str, kinds: frozenset[str]) -> Any:
    if kinds == {"string"}:
        return text
    try:
        value = _value(text, kinds)
    except (ValueError, RecursionError):
        return text
    kind = _kind_of(value)
    allowed = not kinds or kind in kinds or (kind == "integer" and "number" in kinds)
    return value if allowed and kind != "string" else text  # a text stands bare: quotes are its own


def _value(text: str, kinds: frozenset[str]) -> Any:
    bare = text.strip()
    if kinds and bare in _OF_PYTHON:
        return _OF_PYTHON[bare]
    if "integer" in kinds and _INTEGER.fullmatch(bare):  # 007 is none of JSON
        return int(bare)
    value = read_json(bare)
    if isinstance(value, float) and "number" not in kinds and "integer" in kinds and value.is_integer():
        return int(value)
    return value


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    named = ((str, "string"), (int, "integer"), (float, "number"), (list, "array"), (dict, "object"))
    return next((name for kind, name in named if isinstance(value, kind)), "null")


def _kinds(schema: object, root: Schema, depth: int = 0) -> frozenset[str]:
    """JSON's types that it allows; none where it does not say."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return frozenset()
    if isinstance(reference := schema.get("$ref"), str):
        return _kinds(_referred(reference, root), root, depth + 1)
    declared = schema.get("type")
    found = {declared} if isinstance(declared, str) else {one for one in _list(declared) if isinstance(one, str)}
    for union in ("anyOf", "oneOf"):
        choices = [_kinds(choice, root, depth + 1) for choice in _list(schema.get(union))]
        found |= set().union(*choices) if all(choices) else set()  # one that allows anything: nothing is known
    if not found:
        found = {_kind_of(value) for value in (schema["const"],) if value is not None} if "const" in schema else set()
        found |= {_kind_of(value) for value in _list(schema.get("enum"))}
    if not found:
        found = set().union(*(_kinds(part, root, depth + 1) for part in _list(schema.get("allOf"))))
    return frozenset(found | ({"null"} if found and schema.get("nullable") is True else set()))


def _referred(reference: str, root: Schema) -> object:
    """Of "#/$defs/Name"; others are not looked for."""
    found: object = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(value: object) -> Schema:
    return value if isinstance(value, Mapping) else _NO_SCHEMA
